"""Which parameters `config.freeze` excludes from training."""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable

from absl import logging


def frozen_paths(patterns: str, paths: Iterable[str]) -> Callable[[str], bool]:
    """Returns a function that tells whether the parameter of a path is frozen; logs how many are.

    Args:
      patterns: `config.freeze`. A pattern matches a parameter if it matches its path, or a part of it that ends before a
        `/`; `*` stands for any characters. Of several that match, the last one counts.
      paths: the `/`-joined paths of all parameters.

    Raises:
      ValueError: a pattern matches no parameter, or all parameters are frozen.
    """
    paths, frozen = list(paths), set()
    for pattern in filter(None, (word.strip() for word in patterns.split(","))):
        matched = {path for path in paths if _matches(path, pattern.removeprefix("!"))}
        if not matched:
            known = ", ".join(sorted({path.split("/")[0] for path in paths}))
            raise ValueError(f"freeze: {pattern!r} matches no parameter; their paths start with {known}")
        frozen = frozen - matched if pattern.startswith("!") else frozen | matched
    if paths and frozen >= set(paths):
        raise ValueError(f"freeze={patterns!r} freezes all parameters: leave some to be trained, such as '*,!decoder'")
    if frozen:
        tops = Counter(path.split("/")[0] for path in paths)
        parts = (f"{top} {sum(path.split('/')[0] == top for path in frozen)} of {tops[top]}" for top in tops)
        logging.info("freeze=%r: arrays that are not trained: %s", patterns, ", ".join(parts))
    return frozen.__contains__


def _matches(path, pattern):
    parts = path.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
