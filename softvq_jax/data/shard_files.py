"""The shard files that a path, a folder or a pattern names."""

import glob
import itertools
import os
import re

from softvq_jax.data.folder import is_junk
from softvq_jax.storage import listing

MAGIC = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def find_shards(path: str, endings: tuple[str, ...], kind: str) -> list[str]:
    """Returns the files that a path or pattern names, sorted.

    Args:
      path: a file, a folder of files with one of `endings`, or a pattern with `*`, `?`, `[]` or `{first..last}`.
      endings: endings of the files to take from a folder.
      kind: kind of the files, for messages.

    Raises:
      FileNotFoundError: no file is found, or a file of a numbered range is missing.
      ValueError: the files are compressed.
    """
    if listing.is_dir(path):
        names = [name for name in listing.names(path) if not is_junk(name)]
        if packed := [name for name in names if name.endswith(COMPRESSED)]:
            raise ValueError(_compressed(os.path.join(path, packed[0]), "gunzip or its like"))
        found = [os.path.join(path, name) for name in names if name.endswith(endings)]
    elif listing.exists(path):
        found = [path]
    else:
        found = []
        for pattern in _braces(path):
            matched = listing.glob(pattern) if glob.has_magic(pattern) else [pattern]
            if pattern != path and not all(map(listing.exists, matched)):
                raise FileNotFoundError(f"{pattern} is missing; {path!r} names it")
            found += [name for name in matched if listing.exists(name)]
    if not found:
        raise FileNotFoundError(
            f"no {kind} at {path!r}: expected a {endings[0]} file, a folder of them, or a pattern such as "
            f"'*{endings[0]}' or '{{000..127}}{endings[0]}'"
        )
    if found[0].endswith(COMPRESSED):
        raise ValueError(_compressed(found[0], "gunzip or its like"))
    return found


def _braces(pattern: str) -> list[str]:
    """The patterns that `{a,b}` and `{000..127}` stand for, as in a shell."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        options = [str(n).zfill(width) for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        options = match[1].split(",")
    expanded = (_braces(pattern[: match.start()] + option + pattern[match.end() :]) for option in options)
    return list(itertools.chain.from_iterable(expanded))


def refuse_compressed(path: str, first: bytes) -> None:
    """Raises ValueError if the `first` bytes of a shard are those of a compressed file."""
    if archiver := next((name for magic, name in MAGIC.items() if first.startswith(magic)), None):
        raise ValueError(_compressed(path, archiver))


def _compressed(path: str, archiver: str) -> str:
    """The message for a compressed shard; `archiver` is the program that unpacks it."""
    return (
        f"{path} is compressed, so that its images cannot be read in random order: unpack it to a .tar ({archiver}); "
        "images hardly shrink by it"
    )
