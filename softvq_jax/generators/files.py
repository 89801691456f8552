"""Opens and saves generators of every family: folders in the published layout, files of weights, checkpoints of runs."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from softvq_jax.generators.family import Family, GeneratorConfig, anchors, family_of, find_family, read_config
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.storage.files import make_folder
from softvq_jax.storage.paths import as_path, expand
from softvq_jax.weights import checkpoints, entries, files, layout
from softvq_jax.weights.config_json import STATISTICS, stated
from softvq_jax.weights.published_files import PublishedFiles

Statistics = LatentStatistics | str | os.PathLike | None
"""Latent statistics, or the name of a tokenizer that contains them; None for those in the generator's files."""


@dataclasses.dataclass(frozen=True)
class OpenedGenerator:
    """The content of a generator's files, as arguments of `Generator`."""

    config: GeneratorConfig
    params: Mapping[str, Any]
    statistics: LatentStatistics | None
    process: str | None = None
    published: Mapping[str, Any] | None = None
    extra: Mapping[str, np.ndarray] | None = None
    dtypes: Mapping[str, np.dtype] | None = None
    unused_rows: Mapping[str, np.ndarray] | None = None


def open_pretrained(
    name: str | os.PathLike, statistics: Statistics, *, entry: str | None, dtype: str, remat: str
) -> OpenedGenerator:
    """Implements `Generator.from_pretrained`; see there for the arguments."""
    folder, compute = find_folder(name), {"dtype": dtype, "remat": remat}
    if checkpoints.find_checkpoint(folder) is not None:
        return open_checkpoint(folder, statistics, step=None, raw=False, **compute)
    published, path = files.find_published(folder, purpose="generator")
    fields = stated(published, STATISTICS, source=f"the config.json of {path}")
    tensors = entries.select_state_dict(files.read_tensors(path), anchors(), source=str(path), entry=entry)
    config = read_config(tensors, published, source=str(path), **compute)
    found = _find_statistics(family_of(config), statistics, fields, source=name)
    return from_tensors(tensors, published, found, source=str(path), **compute)


def open_checkpoint(
    folder: str | os.PathLike, statistics: Statistics, *, step: int | None, raw: bool, dtype: str, remat: str
) -> OpenedGenerator:
    """Implements `Generator.from_checkpoint`; see there for the arguments."""
    found = checkpoints.open_checkpoint(folder, "generator", step=step, raw=raw)
    fields = found.config("model") | {"dtype": dtype, "remat": remat}
    family = find_family(fields.pop("family"))
    config, published = family.make_config(fields), found.record.get("published", {})
    return OpenedGenerator(
        config,
        found.params | family.fixed_params(config),
        _find_statistics(family, statistics, published, source=found.folder),
        process=found.record["config"]["objective.process"],
        published=published or None,
    )


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    published: Mapping[str, Any],
    statistics: LatentStatistics | None,
    *,
    source: str,
    dtype: str,
    remat: str,
) -> OpenedGenerator:
    """Implements `Generator.from_tensors`; see there for the arguments."""
    config = read_config(tensors, published, dtype=dtype, remat=remat, source=source)
    rules = family_of(config).weight_rules(config)
    with layout.reading(source, f"a {family_of(config).name}"):
        params = layout.read(rules, tensors, abstract_params(config), source=source)
    halves = layout.unused_rows(rules, tensors, params)
    if halves:
        logging.info("%s: only the first half of these tensors is used: %s", source, ", ".join(sorted(halves)))
    used = {key for rule in rules for key in rule.keys}
    extra = {key: tensor for key, tensor in tensors.items() if key not in used}
    if extra:
        names = ", ".join(sorted(extra))
        logging.info("%s: %d tensors that the generator does not use: %s", source, len(extra), names)
    layout.check_unused(extra, used, source=source)
    dtypes = {key: tensors[key].dtype for key in used if tensors[key].dtype != np.float32}
    return OpenedGenerator(config, params, statistics, None, published, extra, dtypes, halves)


def save(
    folder: str | os.PathLike,
    config: GeneratorConfig,
    params: Mapping[str, Any],
    statistics: LatentStatistics | None,
    kept: PublishedFiles,
    dtype: str | None = None,
) -> None:
    """Writes a folder in the published layout, with the latent statistics in `config.json`.

    Args:
      folder: created if it does not exist.
      config: shape of the network.
      params: its parameters.
      statistics: statistics of the training latents; None for a discrete generator.
      kept: the rest of the files' content.
      dtype: see `PublishedFiles.tensors`.
    """
    tensors = kept.tensors(layout.write(family_of(config).weight_rules(config), params), dtype)
    folder = as_path(expand(os.fspath(folder)))
    make_folder(folder)
    files.write_safetensors(folder / "model.safetensors", tensors)
    fields = {} if statistics is None else statistics.to_fields()
    files.write_json(folder / "config.json", dict(kept.config) | fields)


def find_folder(name: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a generator, given the folder, a run's workdir or a Hugging Face id."""
    folder = files.resolve(name, purpose="generator")
    inner = folder / "generator"
    return inner if (inner / "config.json").is_file() else folder


def stored_statistics(name: str | os.PathLike) -> LatentStatistics | None:
    """Returns the latent statistics in a generator's files, or None; `name` is as in `Generator.from_pretrained`."""
    folder = find_folder(name)
    if (found := checkpoints.find_checkpoint(folder)) is not None:
        return LatentStatistics.from_fields(checkpoints.read_record(found).get("published", {}))
    published, path = files.find_published(folder, purpose="generator")
    return LatentStatistics.from_fields(stated(published, STATISTICS, source=f"the config.json of {path}"))


def abstract_params(config: GeneratorConfig) -> dict[str, Any]:
    """Returns the tree of a generator's parameters, including fixed ones, as `ShapeDtypeStruct`s."""
    family = family_of(config)
    params = family.network(config).shapes | family.fixed_params(config)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


def _find_statistics(family: Family, given, published, source) -> LatentStatistics | None:
    if family.discrete:
        return None
    if isinstance(given, LatentStatistics):
        return given
    if given is not None:
        found = LatentStatistics.from_fields(files.read_json(files.resolve(given, purpose="tokenizer") / "config.json"))
        if found is None:
            raise ValueError(f"the config.json of {given} has no vq_mean and vq_std: give LatentStatistics(mean, std)")
        return found
    found = LatentStatistics.from_fields(published)
    if found is None:
        raise ValueError(
            f"{source} does not carry the statistics of its latents, and without them samples cannot be decoded: give "
            "statistics=<the tokenizer's folder or id, such as SoftVQVAE/softvq-l-64>, or LatentStatistics(mean, std)"
        )
    return found
