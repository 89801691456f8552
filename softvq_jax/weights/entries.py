"""Selects the tensors of one network from a file that adds prefixes to their names, or that holds several networks.

Training code saves `{"model": ..., "ema": ..., "optimizer": ...}`, `torch.compile` inserts `_orig_mod.` into names, and
`DistributedDataParallel` puts `module.` before them. A network is found by its anchors, names of tensors that it must have:
the part of a name before an anchor is the prefix of an entry.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from softvq_jax.weights.layout import WeightsError

_COMPILED = re.compile(r"\b_orig_mod\.")
_AVERAGED = re.compile(r"ema|averag|teacher")  # DINO's teacher is an average of its student


def select_state_dict(
    tensors: Mapping[str, np.ndarray], anchors: Sequence[str], *, source: str, entry: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the tensors of one network, by their names without prefixes.

    If a file holds raw and averaged parameters, the averaged ones are taken, and the log says so.

    Args:
      tensors: all tensors of a file, by name.
      anchors: names of tensors; a network has at least one of them.
      source: name of the file, for messages.
      entry: entry of the file, such as "model", "ema" or "student"; None for the only one, or the averaged one.

    Returns:
      The tensors of the entry; all tensors if no name ends in an anchor.

    Raises:
      WeightsError: the file has no such entry, or several without a clear choice.
    """
    names = {_COMPILED.sub("", key): key for key in tensors}
    prefixes = sorted({prefix for name in names if (prefix := _prefix(name, anchors)) is not None})
    if entry is not None:
        wanted = f"{entry}." if entry else ""
        matching = [prefix for prefix in prefixes if prefix == wanted]
        matching = matching or [prefix for prefix in prefixes if entry and prefix.startswith(wanted)]
        matching = matching or [prefix for prefix in prefixes if entry and f".{wanted}" in prefix]
        if not matching:
            raise WeightsError(f"{source} has no entry {entry!r} with this network; it has {_listed(prefixes)}")
        prefixes = matching
    averaged = [prefix for prefix in prefixes if _AVERAGED.search(prefix)]
    if len(prefixes) > 1 and len(averaged) == 1:
        others = [prefix for prefix in prefixes if prefix not in averaged]
        logging.info(
            "%s: taking the averaged parameters, %s; entry=... takes %s", source, _listed(averaged), _listed(others)
        )
        prefixes = averaged
    if len(prefixes) > 1:
        raise WeightsError(
            f"{source} holds this network several times, in {_listed(prefixes)}: choose by entry=..., or {source}#ENTRY in "
            "a config"
        )
    prefix = prefixes[0] if prefixes else ""
    return {name.removeprefix(prefix): tensors[key] for name, key in names.items() if name.startswith(prefix)}


def _prefix(name: str, anchors: Sequence[str]) -> str | None:
    """The part of a name before the longest anchor at its end; None if it does not end in an anchor."""
    ends = [anchor for anchor in anchors if name == anchor or name.endswith(f".{anchor}")]
    return name.removesuffix(max(ends, key=len)) if ends else None


def _listed(prefixes: Sequence[str]) -> str:
    return ", ".join(repr(prefix.rstrip(".")) for prefix in prefixes) or "none"
