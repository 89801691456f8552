"""Paths as people write them: `~`, `$NAME` and `${NAME}` are expanded here, and `gs://` and `s3://` lead to buckets."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard, cast, overload

if TYPE_CHECKING:
    from softvq_jax.storage.buckets import BucketPath

_FLAG_AND_VALUE = re.compile(r"(--?[\w.\[\]]+=)(.*)", re.DOTALL)
_REMOTE = ("gs://", "s3://")


def expand(path: str) -> str:
    """A path with a leading `~` or `~user` and environment variables expanded; variables that are not set stay."""
    return os.path.expanduser(os.path.expandvars(path))


@overload
def is_remote(path: str) -> bool: ...
@overload
def is_remote(path: os.PathLike) -> "TypeGuard[BucketPath]": ...
def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket, as text or as a `BucketPath`."""
    return os.fspath(path).startswith(_REMOTE)


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns a local path, or a `BucketPath` for `gs://` and `s3://`; nothing is expanded.

    Annotated as `pathlib.Path`, whose methods both have; only `is_remote` paths have `read_range` and its like.

    Raises:
      ValueError: another URL, or a URL without a bucket.
    """
    text = re.sub(r"^(gs|s3):/(?=[^/])", r"\1://", os.fspath(path))  # pathlib removes one slash
    if is_remote(text):
        from softvq_jax.storage.buckets import BucketPath

        return cast(pathlib.Path, BucketPath(text))
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text):
        raise ValueError(f"{text}: {match[0]} cannot be opened here; expected a local path, gs:// or s3://")
    return path if isinstance(path, pathlib.Path) else pathlib.Path(text)


def bucket_path(path: str | os.PathLike) -> "BucketPath":
    """Returns a path that `is_remote` as what it is."""
    return cast("BucketPath", as_path(path))


def expand_arguments(words: Sequence[str]) -> list[str]:
    """A command line whose words and flag values are expanded where they begin with `~` or `$`, or hold `/$`.

    A shell expands `--out ~/runs`, but not `--out=~/runs`, which all commands take as well.
    """
    return [_expanded(word) for word in words]


def _expanded(word: str) -> str:
    flag, value = match.groups() if (match := _FLAG_AND_VALUE.fullmatch(word)) else ("", word)
    return flag + (expand(value) if value.startswith(("~", "$")) or "/$" in value else value)
