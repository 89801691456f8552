"""Parses paths that people write: expands `~`, `$NAME` and `${NAME}`, and maps `gs://` and `s3://` to `BucketPath`."""

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
    """Expands a leading `~` or `~user` and environment variables; keeps variables that are not set."""
    return os.path.expanduser(os.path.expandvars(path))


@overload
def is_remote(path: str) -> bool: ...
@overload
def is_remote(path: os.PathLike) -> "TypeGuard[BucketPath]": ...
def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path, a string or a `BucketPath`, is in a bucket."""
    return os.fspath(path).startswith(_REMOTE)


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns a `BucketPath` for `gs://` and `s3://`, else a `pathlib.Path`; expands nothing.

    The annotation is `pathlib.Path` because both have its methods. Methods that only `BucketPath` has, such as
    `read_range`, need a check by `is_remote`, or `bucket_path`.

    Raises:
      ValueError: the path is another URL, or a URL without a bucket.
    """
    text = re.sub(r"^(gs|s3):/(?=[^/])", r"\1://", os.fspath(path))  # pathlib removes one slash
    if is_remote(text):
        from softvq_jax.storage.buckets import BucketPath

        return cast(pathlib.Path, BucketPath(text))
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text):
        raise ValueError(f"{text}: {match[0]} cannot be opened here; expected a local path, gs:// or s3://")
    return path if isinstance(path, pathlib.Path) else pathlib.Path(text)


def bucket_path(path: str | os.PathLike) -> "BucketPath":
    """Returns a path that is known to be in a bucket, annotated as a `BucketPath`."""
    return cast("BucketPath", as_path(path))


def user_cache(name: str) -> pathlib.Path:
    """Returns `softvq_jax/NAME` in the user's cache folder: `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "softvq_jax" / name


def expand_arguments(words: Sequence[str]) -> list[str]:
    """Expands the words and flag values of a command line that begin with `~` or `$`, or contain `/$`.

    A shell expands `--out ~/runs`, but not `--out=~/runs`, which all commands accept too.
    """
    return [_expanded(word) for word in words]


def _expanded(word: str) -> str:
    flag, value = match.groups() if (match := _FLAG_AND_VALUE.fullmatch(word)) else ("", word)
    return flag + (expand(value) if value.startswith(("~", "$")) or "/$" in value else value)
