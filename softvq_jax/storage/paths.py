"""Paths as people write them: `~`, `$NAME` and `${NAME}` are expanded here, for every command and config field."""

import os
import re
from collections.abc import Sequence

_FLAG_AND_VALUE = re.compile(r"(--?[\w.\[\]]+=)(.*)", re.DOTALL)


def expand(path: str) -> str:
    """A path with a leading `~` or `~user` and environment variables expanded; variables that are not set stay."""
    return os.path.expanduser(os.path.expandvars(path))


def expand_arguments(words: Sequence[str]) -> list[str]:
    """A command line whose words and flag values are expanded where they begin with `~` or `$`, or hold `/$`.

    A shell expands `--out ~/runs`, but not `--out=~/runs`, which all commands take as well.
    """
    return [_expanded(word) for word in words]


def _expanded(word: str) -> str:
    flag, value = match.groups() if (match := _FLAG_AND_VALUE.fullmatch(word)) else ("", word)
    return flag + (expand(value) if value.startswith(("~", "$")) or "/$" in value else value)
