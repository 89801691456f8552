"""The interface of families of latent generators, and the registry of families.

A family is one file that defines `NAME = Family(...)`. The families of this package are registered in
`generators/__init__.py`; user code registers its own by `register_family`, for example in the config file.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from softvq_jax.config.fields import Allowed, Field, Schema
from softvq_jax.models.functional import Functional
from softvq_jax.weights.config_json import STATISTICS, stated
from softvq_jax.weights.layout import Rule, WeightsError, reading


class GeneratorConfig(Protocol):
    """Shape of a generator's network. Each family has its own frozen dataclass, with at least these fields."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def dtype(self) -> str: ...


Losses = Callable[[Any, jax.Array, jax.Array, jax.Array, bool], Mapping[str, jax.Array]]
"""`(network, data, labels [B], key, training) -> losses [B] by name`; "loss" is minimized.

The data are normalized latents `[B, L, D]`; of a discrete family, code indices `[B, L]`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Static settings of a sampling program: each combination is compiled once.

    Attributes:
      sampler: one of the family's samplers.
      steps: number of denoising steps (SiT, DiT) or of iterations over the tokens (MAR, MaskGIT).
      guided: whether guidance is on; the scale is an argument of the program.
      guidance_interval: `(low, high)`, the times with guidance.
      head_steps: denoising steps of each token (MAR).
      guidance_schedule: how guidance grows over the steps (MaskGIT).
      anneal_softmax: whether the softmax temperature falls over the steps (MaskGIT).
    """

    sampler: str
    steps: int
    guided: bool
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    head_steps: int = 100
    guidance_schedule: str = "linear"
    anneal_softmax: bool = False


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampling method of a family.

    Attributes:
      draw: `(network, labels [B], keys [B], guidance, *, settings, process, **arrays) -> normalized latents [B, L, D]`,
        or code indices `[B, L]` of a discrete family; a traceable function. `arrays` may be `noise`, `step_noises` and
        `temperature`, as listed in `optional_arguments`.
      optional_arguments: names of the optional arguments of `Generator.sample` that the sampler takes, among
        `guidance_interval`, `head_steps`, `guidance_schedule`, `anneal_softmax`, `noise`, `step_noises` and `temperature`.
      steps: default number of steps; None means as many as there are tokens.
      least_steps: least number of steps.
      most_steps: `(config of the network) -> largest number of steps`; None for no limit.
    """

    draw: Callable[..., jax.Array]
    optional_arguments: frozenset[str] = frozenset()
    steps: int | None = 250
    least_steps: int = 1
    most_steps: Callable[[Any], int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity
class Family:
    """A family of generators: all that training, sampling and weight files need to know of it.

    Attributes:
      name: name of the family in `config.model.family`.
      presets: fields of `config.model` for each named size.
      fields: the family's own fields of `config.model`, `config.objective` and `config.sampling`, by section.
        `objective.process` is required; it names the path or noise schedule that the network is trained on.
      make_config: `(fields of config.model, without the family) -> config of the network`.
      matches_config: `(config of a network) -> bool`, whether it belongs to this family.
      network: `(config) -> Functional`, the network as a pure function, cached.
      losses: `(config.objective) -> loss function`.
      samplers: samplers by name, the default first.
      weight_rules: `(config) -> rules` that map parameters to published tensors.
      read_config: `(tensors, published config.json, dtype=, remat=) -> config of the network`, or None if the tensors
        are not of this family.
      published_fields: `(config, process) -> content of config.json`.
      process_field: the field of `config.json` that holds the process.
      anchors: names of tensors by which a network of the family is found in a file, see `weights.entries`.
      config_json: the allowed values of the fields of `config.json` that `read_config` uses.
      optimizer_defaults: default values of `config.optim` that differ between families.
      train_defaults: default values of `config.train` that differ between families.
      fixed_params: `(config) -> parameters that are not trained`, such as sinusoidal positions.
      discrete: whether the data are code indices; configs of the network then have `codebook_size` and `num_codebooks`.
      paper: arXiv number of the paper, for the model card; "" for none.
      sampling_defaults: `(content of config.json) -> arguments of Generator.sample`, used if the caller gives none.
    """

    name: str
    presets: Mapping[str, Mapping[str, Any]]
    fields: Mapping[str, Schema]
    make_config: Callable[[Mapping[str, Any]], GeneratorConfig]
    matches_config: Callable[[Any], bool]
    network: Callable[[Any], Functional]
    losses: Callable[[ConfigDict], Losses]
    samplers: Mapping[str, Sampler]
    weight_rules: Callable[[Any], Sequence[Rule]]
    read_config: Callable[..., GeneratorConfig | None]
    published_fields: Callable[[Any, str], dict[str, Any]]
    process_field: str
    optimizer_defaults: Mapping[str, Any]
    train_defaults: Mapping[str, Any]
    fixed_params: Callable[[Any], dict[str, np.ndarray]] = lambda config: {}
    anchors: tuple[str, ...] = ()
    config_json: Mapping[str, Allowed] = dataclasses.field(default_factory=dict)
    discrete: bool = False
    paper: str = ""
    sampling_defaults: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda published: {}

    @property
    def process(self) -> Field:
        """The declaration of `objective.process`."""
        field = self.fields["objective"]["process"]
        assert isinstance(field, Field)
        return field

    def preset(self, size: str, **fields: Any) -> GeneratorConfig:
        """Returns the network's config for a named size, with further fields of `config.model`.

        Raises:
          ValueError: the size is unknown.
        """
        check_name(size, self.presets, f"size of a {self.name}")
        return self.make_config({**self.presets[size], **fields})


FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Registers a family for configs, training, `Generator` and the tools.

    Raises:
      ValueError: another family has this name.
    """
    if FAMILIES.get(family.name, family) is not family:
        raise ValueError(f"a generator family {family.name!r} is registered already; choose another name")
    FAMILIES[family.name] = family


def find_family(name: str) -> Family:
    """Returns the family with this name; raises ValueError if it is unknown."""
    check_name(name, FAMILIES, "config.model.family")
    return FAMILIES[name]


def family_of(config: GeneratorConfig) -> Family:
    """Returns the family of a network's config.

    Raises:
      ValueError: no registered family has such configs.
    """
    for family in FAMILIES.values():
        if family.matches_config(config):
            return family
    raise ValueError(
        f"{type(config).__name__} belongs to none of the generator families {', '.join(FAMILIES)}: call register_family "
        "first"
    )


def read_config(
    tensors: Mapping[str, np.ndarray], published: Mapping[str, Any], *, dtype: str, remat: str, source: str
) -> GeneratorConfig:
    """Returns the config of the network that published tensors belong to, for all registered families.

    Args:
      tensors: a state dict in the published naming, which determines most of the shape.
      published: the content of its `config.json`, for the rest, such as the number of heads.
      dtype, remat: compute options of the network, which no file contains.
      source: name of the tensors' file, for messages.

    Raises:
      WeightsError: the tensors fit no family, or lack some of a family's, or a field has a value that is not allowed.
    """
    for family in FAMILIES.values():
        if family.anchors and not any(anchor in tensors for anchor in family.anchors):
            continue
        fields = stated(published, {**family.config_json, **STATISTICS}, source=f"the config.json of {source}")
        with reading(source, f"a {family.name}"):
            config = family.read_config(tensors, fields, dtype=dtype, remat=remat)
        if config is not None and family.matches_config(config):
            return config
    first = ", ".join(sorted(tensors)[:3])
    raise WeightsError(
        f"{source}: {len(tensors)} tensors ({first}, ...) that fit none of the generator families {', '.join(FAMILIES)}"
    )


def anchors() -> tuple[str, ...]:
    """Returns the names of tensors by which the families' networks are found in a file."""
    return tuple(anchor for family in FAMILIES.values() for anchor in family.anchors)


def check_name(name: str, known: Mapping[str, Any], what: str) -> None:
    """Raises ValueError for a name that is not in `known`."""
    if name not in known:
        raise ValueError(f"{what} is {name!r}; expected one of {', '.join(known)}")
