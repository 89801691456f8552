"""Opens and saves tokenizers of every kind: folders in the published layout, files of weights, checkpoints of runs."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.storage.files import make_folder
from softvq_jax.storage.paths import as_path, expand
from softvq_jax.weights import checkpoints, entries, files, layout, tokenizer_kinds
from softvq_jax.weights.published_files import PublishedFiles

# Written in addition to `config.json` if its fields do not determine the config of a tokenizer trained here.
OWN_CONFIG = "softvq_jax.json"


@dataclasses.dataclass(frozen=True)
class OpenedTokenizer:
    """The content of a tokenizer's files.

    Attributes:
      config: shape of the network.
      params: tree of host arrays.
      published: content of `config.json`; None if it has to be made from the config.
      extra: tensors that the network does not use; None for the usual ones of a tokenizer trained here.
      dtypes: dtypes of tensors that are not float32.
    """

    config: TokenizerConfig
    params: Mapping[str, Any]
    published: Mapping[str, Any] | None = None
    extra: Mapping[str, np.ndarray] | None = None
    dtypes: Mapping[str, np.dtype] | None = None


def open_pretrained(
    name: str | os.PathLike, *, entry: str | None, image_size: int | None, trust_code: bool, **compute: str
) -> OpenedTokenizer:
    """Implements `Tokenizer.from_pretrained`; see there for the arguments. `compute` are `dtype` and `remat`."""
    if image_size is not None and (not isinstance(image_size, int | np.integer) or isinstance(image_size, bool)):
        raise layout.WeightsError(f"{name}: image_size is {image_size!r}; expected an integer, in pixels")
    folder = files.resolve(name, purpose="tokenizer")
    if (folder / "tokenizer" / "config.json").is_file():
        folder = folder / "tokenizer"  # a run's workdir
    elif checkpoints.find_checkpoint(folder) is not None:
        opened = open_checkpoint(folder, step=None, raw=False, trust_code=trust_code, **compute)
        if image_size in (None, opened.config.image_size):
            return opened
        rules = tokenizer_kinds.kind_of(opened.config).weight_rules(opened.config)
        written = layout.write(rules, opened.params)
        tensors, config, _ = _resized(written, opened.config, {}, image_size, str(name))
        return dataclasses.replace(from_tensors(config, tensors, source=str(name)), extra=None)
    published, path = files.find_published(folder, purpose="tokenizer")
    anchors = tokenizer_kinds.anchors()
    tensors = entries.select_state_dict(files.read_tensors(path), anchors, source=str(path), entry=entry)
    own = path.parent / OWN_CONFIG
    if own.is_file():
        fields = files.read_json(own)
        config = tokenizer_kinds.config_from_dict(fields, source=own, trust_code=trust_code, **compute)
    else:
        config = tokenizer_kinds.recognize(tensors).config_of(tensors, published, source=str(path), **compute)
    if image_size is not None:
        tensors, config, published = _resized(tensors, config, published, image_size, str(path))
    return from_tensors(config, tensors, published=published, source=str(path))


def open_checkpoint(
    folder: str | os.PathLike, *, step: int | None, raw: bool, trust_code: bool, **compute: str
) -> OpenedTokenizer:
    """Implements `Tokenizer.from_checkpoint`; see there for the arguments."""
    found = checkpoints.open_checkpoint(folder, "tokenizer", step=step, raw=raw)
    fields, source = found.config("model"), found.folder
    config = tokenizer_kinds.config_from_dict(fields, source=source, trust_code=trust_code, **compute)
    return OpenedTokenizer(config, found.params["model"])


def from_tensors(
    config: TokenizerConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    published: Mapping[str, Any] | None = None,
    source: str,
) -> OpenedTokenizer:
    """Opens a state dict in the published naming; `source` names it in messages.

    Raises:
      WeightsError: a tensor is missing, has another shape or holds no finite floats, or a block is not used.
    """
    kind = tokenizer_kinds.kind_of(config)
    rules = kind.weight_rules(config)
    with layout.reading(source, kind.title):
        params = layout.read(rules, tensors, tokenizer_kinds.network(config).shapes, source=source)
    used = {key for rule in rules for key in rule.keys}
    extra = {key: tensor for key, tensor in tensors.items() if key not in used}
    layout.check_unused((key for key in extra if key.startswith(("encoder.", "decoder."))), used, source=source)
    if unknown := sorted(extra.keys() - kind.unused_tensors(config).keys()):
        logging.info("%s: %d tensors are not used by the tokenizer: %s", source, len(unknown), ", ".join(unknown))
    dtypes = {key: tensors[key].dtype for key in used if tensors[key].dtype != np.float32}
    return OpenedTokenizer(config, params, published, extra, dtypes)


def save(
    folder: str | os.PathLike,
    config: TokenizerConfig,
    params: Mapping[str, Any],
    kept: PublishedFiles,
    dtype: str | None = None,
) -> None:
    """Writes a folder in the published layout.

    Args:
      folder: created if it does not exist.
      config: shape of the network.
      params: its parameters.
      kept: the rest of the files' content.
      dtype: see `PublishedFiles.tensors`.
    """
    tensors = kept.tensors(layout.write(tokenizer_kinds.kind_of(config).weight_rules(config), params), dtype)
    folder = as_path(expand(os.fspath(folder)))
    make_folder(folder)
    files.write_safetensors(folder / "model.safetensors", tensors)
    files.write_json(folder / "config.json", kept.config)
    if _inferred_config(tensors, kept.config, config) != config:
        files.write_json(folder / OWN_CONFIG, tokenizer_kinds.config_to_dict(config))
    else:
        (folder / OWN_CONFIG).unlink(missing_ok=True)  # left by a tokenizer saved here before


def _inferred_config(tensors, published, config):
    """Returns the config that `open_pretrained` infers from the published layout alone; None if it cannot."""
    try:
        kind = tokenizer_kinds.recognize(tensors)
        return kind.config_of(tensors, published, source="the file", dtype=config.dtype, remat=config.remat)
    except layout.WeightsError:
        return None


def _resized(tensors, config, published, image_size, source):
    """Returns the tensors, the config and the content of `config.json` for images of another size."""
    kind = tokenizer_kinds.kind_of(config)
    if image_size == config.image_size:
        return tensors, config, published
    if kind.resized is None:
        raise layout.WeightsError(
            f"{source}: image_size={image_size} was given, but {kind.title} is for images of its own size, "
            f"{config.image_size} px; leave out image_size"
        )
    with layout.reading(source, kind.title):
        tensors = kind.resized(tensors, image_size)
    published = {**published, "image_size": image_size} if published else published
    return tensors, dataclasses.replace(config, image_size=image_size), published
