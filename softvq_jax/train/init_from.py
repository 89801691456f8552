"""Starts a new run from a trained model: `config.init_from`.

A parameter is taken from the source where both have one of the same path and shape, and resized where only the image
size, the number of tokens or the number of classes differs. All others start fresh. The log lists all three.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from softvq_jax.generator import Generator
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models import dinov2
from softvq_jax.models.maskgit import MaskGITConfig
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights.layout import PATCH

MAX_SHOWN = 6  # parameters named in a line of the log
COMPUTE = ("dtype", "remat", "local_init", "unit_init", "grid_init")  # fields that do not say what the network computes
KL_LOG_VARIANCE = -6.0  # of a KL bottleneck that starts from another one: noise of 0.05


@dataclasses.dataclass(frozen=True)
class Started:
    """Parameters of a source, as far as they fit a network.

    Attributes:
      params: host arrays by `/`-joined path.
      resized: descriptions of the resized parameters, by path.
      fresh: the reasons why the other parameters start fresh, by path.
      unused: paths of the source's parameters that the network does not have.
      total: number of values in the network; `taken` of them come from the source.
    """

    params: dict[str, np.ndarray]
    resized: dict[str, str]
    fresh: dict[str, str]
    unused: list[str]
    total: int

    @property
    def taken(self) -> int:
        """Number of values that come from the source, resized ones included."""
        return sum(array.size for array in self.params.values())

    def lines(self) -> list[str]:
        """What was taken, resized and left fresh, in lines for the log."""
        same = len(self.params) - len(self.resized)
        lines = [f"taken: {same} arrays; {self.taken:,} of {self.total:,} values come from it"]
        lines += [f"resized: {path}, {how}" for path, how in self.resized.items()]
        reasons: dict[str, list[str]] = {}
        for path, reason in self.fresh.items():
            reasons.setdefault(reason, []).append(path)
        reasons = {f"fresh ({reason})": paths for reason, paths in reasons.items()}
        for what, paths in (reasons | ({"not used": self.unused} if self.unused else {})).items():
            more = f" and {len(paths) - MAX_SHOWN} more" if len(paths) > MAX_SHOWN else ""
            lines.append(f"{what}: {', '.join(paths[:MAX_SHOWN])}{more}")
        return lines


def start_from(config: ConfigDict, network: Any, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the model that `config.init_from` names and fits it to the network of a run; logs what was taken.

    Args:
      config: of the run.
      network: the config of its network, a `TokenizerConfig` or a generator's.
      shapes: the parameters of that network, as `ShapeDtypeStruct`s.

    Returns:
      A tree of host arrays that holds only the parameters that were taken.

    Raises:
      FileNotFoundError, WeightsError: there is no such model, or it is damaged.
      ValueError: it is of another kind, or differs in a way that shapes do not show.
    """
    name = config.init_from
    if config.task == "tokenizer":
        source: Any = Tokenizer.from_pretrained(name)
    else:
        source = Generator.from_pretrained(name, statistics=LatentStatistics(0.0, 1.0))  # not used
    _check_same_kind(name, source.config, network)
    resizes = dict(RESIZES)
    if (buffer := getattr(network, "buffer_size", None)) is not None and buffer == source.config.buffer_size:
        resizes["*coder_positions"] = partial(_interpolate_after, buffer)
    if isinstance(network, MaskGITConfig) and network.codebook_size == source.config.codebook_size:
        resizes["embeddings"] = partial(_mean_class_after, network.codebook_size + 1)
    started = fit(_flat(source.params), _flat(shapes), resizes)
    if not started.params:
        raise ValueError(f"init_from={name!r}: no parameter has the shape of this network's; compare the two configs")
    theirs, ours = _fields(source.config), _fields(network)
    changed = [f"{field} {theirs[field]} -> {ours[field]}" for field in ours if theirs.get(field) != ours[field]]
    differing = ", ".join(text for text in changed if text.split(" ")[0] not in COMPUTE) or "nothing"
    logging.info("starting from %s:\n  config: %s\n  %s", name, differing, "\n  ".join(started.lines()))
    return traverse_util.unflatten_dict(started.params, sep="/")


def fit(
    source: Mapping[str, np.ndarray], shapes: Mapping[str, Any], resizes: Mapping[str, "Resize"] | None = None
) -> Started:
    """Takes or resizes the parameters of a source for a network.

    Args:
      source: arrays by `/`-joined path.
      shapes: those of the network, by path.
      resizes: how parameters are resized, by a pattern of their paths; default: `RESIZES`.
    """
    params, resized, fresh, resizes = {}, {}, {}, RESIZES if resizes is None else resizes
    for path, leaf in shapes.items():
        if path not in source:
            fresh[path] = "the source has none"
            continue
        array, shape = np.asarray(source[path], np.float32), tuple(leaf.shape)
        if array.shape == shape:
            params[path] = array
            continue
        found = next((resize for pattern, resize in resizes.items() if fnmatch.fnmatchcase(path, pattern)), None)
        result = found(array, shape) if found is not None else None
        if result is None:
            fresh[path] = f"{_words(array.shape)} in the source, {_words(shape)} here"
        else:
            params[path], how = result
            resized[path] = f"{_words(array.shape)} to {_words(shape)}: {how}"
    total = sum(int(np.prod(leaf.shape)) for leaf in shapes.values())
    return Started(params, resized, fresh, [path for path in source if path not in shapes], total)


def overlay(params: dict[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tree with some of its leaves replaced by those of `taken`, a part of the same tree."""
    return {
        name: overlay(child, taken.get(name, {})) if isinstance(child, dict) else taken.get(name, child)
        for name, child in params.items()
    }


# --- resizing: (array, shape) -> (resized array, how), or None where the difference is not of that kind -------------------


def _resample_positions(array, shape):
    """Positions `[1 + n*n, width]` of a class token and of patches."""
    if array.shape[1] != shape[1]:
        return None
    return dinov2.resample_positions(array, round((shape[0] - 1) ** 0.5)), "positions resampled bicubically"


def _resample_patches(array, shape):
    """The kernel `[p*p*3, width]` of the patch embedding."""
    if array.shape[1] != shape[1]:
        return None
    kernel = dinov2.resample_patch_kernel(np.ascontiguousarray(PATCH.to_torch(array)), round((shape[0] / 3) ** 0.5))
    return np.ascontiguousarray(PATCH.to_ours(kernel)), "patches resampled (FlexiViT)"


def _interpolate_tokens(array, shape):
    """Values `[L, width]` for each latent token."""
    if array.shape[1] != shape[1]:
        return None
    return _interpolated(array, shape[0]), "interpolated along the tokens"


def _interpolate_after(first, array, shape):
    """Positions `[first + L, width]`; before the tokens are MAR's buffer, or a MaskGIT's class."""
    if array.shape[1] != shape[1]:
        return None
    tokens = _interpolated(array[first:], shape[0] - first)
    return np.concatenate([array[:first], tokens]), f"interpolated along the tokens; the first {first} are kept"


def _mean_class(array, shape):
    """Embeddings `[classes, width]`: the classes of other data start at the mean of the old ones."""
    if array.shape[1] != shape[1]:
        return None
    return _repeated_mean(array, shape[0]), "each class starts at the mean of the source's"


def _mean_class_and_none(array, shape):
    """Embeddings `[classes + 1, width]`, of which the last means no class."""
    if array.shape[1] != shape[1]:
        return None
    how = "each class starts at the mean of the source's; the embedding of no class is kept"
    return np.concatenate([_repeated_mean(array[:-1], shape[0] - 1), array[-1:]]), how


def _mean_class_after(codes, array, shape):
    """A MaskGIT's embeddings `[codes + classes + 1, width]`: the codes and the mask, then those of a class label."""
    if array.shape[1] != shape[1]:
        return None
    resized = _mean_class_and_none(array[codes:], (shape[0] - codes, shape[1]))
    assert resized is not None, "the widths are equal"
    labels, how = resized
    return np.concatenate([array[:codes], labels]), f"codes and mask are kept; {how}"


def _moments(array, shape):
    """The linear map to the latents: `[..., D]`, or `[..., 2D]` for mean and log-variance of a KL bottleneck."""
    if array.shape[:-1] != shape[:-1]:
        return None
    if array.shape[-1] == 2 * shape[-1]:
        return array[..., : shape[-1]], "the mean's part"
    if 2 * array.shape[-1] != shape[-1]:
        return None
    value = KL_LOG_VARIANCE if array.ndim == 1 else 0.0
    return np.concatenate([array, np.full_like(array, value)], axis=-1), (
        f"as the mean; the log-variance starts at {KL_LOG_VARIANCE:g}"
    )


def _repeated_mean(array, count):
    """The mean row, `count` times."""
    return np.repeat(array.mean(0, keepdims=True), count, axis=0)


def _interpolated(array, length):
    """Linear interpolation along the first axis; the first and the last row stay. No two rows become equal."""
    where = np.linspace(0, len(array) - 1, length)
    low = np.minimum(where.astype(int), max(len(array) - 2, 0))
    weight = (where - low)[:, None]
    high = np.minimum(low + 1, len(array) - 1)
    return ((1 - weight) * array[low] + weight * array[high]).astype(np.float32)


Resize = Callable[[np.ndarray, tuple[int, ...]], tuple[np.ndarray, str] | None]
RESIZES: dict[str, Resize] = {
    "encoder/vit/pos_embed": _resample_positions,
    "decoder/pos_embed": _resample_positions,
    "encoder/vit/patch_embed/kernel": _resample_patches,
    "encoder/latent_tokens": _interpolate_tokens,
    "*coder/latent_pos_embed": _interpolate_tokens,
    "to_latents/*": _moments,
    "label_embeddings": _mean_class_and_none,
    "class_embeddings": _mean_class,
    "head_positions": _interpolate_tokens,
    "positions": partial(_interpolate_after, 1),
}
"""How parameters are resized, by a pattern of their paths."""


# --- checks ---------------------------------------------------------------------------------------------------------------


def _check_same_kind(name, source, network):
    """Raises ValueError where equal shapes would hide that the networks compute something else."""
    if type(source) is not type(network):
        raise ValueError(
            f"init_from={name!r} is a {type(source).__name__.removesuffix('Config')}; this run trains a "
            f"{type(network).__name__.removesuffix('Config')}"
        )
    theirs, ours = _fields(source), _fields(network)
    for field in sorted(theirs.keys() & ours.keys()):
        if field.split(".")[-1] in ("num_heads", "activation") and theirs[field] != ours[field]:
            raise ValueError(
                f"init_from={name!r}: {field} is {theirs[field]!r} there and {ours[field]!r} here: set "
                f"--config.model.{field}={theirs[field]}"
            )


def _fields(config, prefix=""):
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = dataclasses.is_dataclass(value)
        flat |= _fields(value, f"{prefix}{field.name}.") if inner else {f"{prefix}{field.name}": value}
    return flat


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")


def _words(shape):
    return " x ".join(map(str, shape))
