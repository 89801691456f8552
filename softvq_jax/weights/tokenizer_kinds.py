"""The kinds of tokenizers, one entry each: SoftVQ-VAE, TiTok, MAETok.

An entry has the network, a test that recognizes published files, and the weight rules. `Tokenizer`, training and the
tools work with every kind through this table. User code adds its own by `register_kind`.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from softvq_jax.config.fields import Schema
from softvq_jax.config.kinds import SCHEMAS, maetok_schema, titok_schema
from softvq_jax.models.functional import Functional, functional
from softvq_jax.models.maetok import MAETokConfig, MAETokModel
from softvq_jax.models.quantizers import BOTTLENECKS
from softvq_jax.models.titok import TiTokConfig, TiTokModel
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.weights import maetok, titok, tokenizer
from softvq_jax.weights.layout import Rule, WeightsError

Tensors = Mapping[str, np.ndarray]
TRUST_CODE = "SOFTVQ_JAX_TRUST_CODE"  # environment variable of the commands, which have no argument `trust_code`


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity
class TokenizerKind:
    """A kind of tokenizers.

    Attributes:
      name: its name in `config.model.kind` and in `softvq_jax.json`.
      title: its name in messages, such as "a TiTok tokenizer".
      config: class of its configs, `TokenizerConfig` or a subclass.
      network: class of its networks, `TokenizerModel` or a subclass; `network(config, rngs=rngs)` makes one.
      recognizes: `(tensors) -> bool`, whether a published state dict is of this kind.
      anchors: names of tensors by which the network is found in a file, see `weights.entries`.
      config_of: `(tensors, content of config.json, source=, dtype=, remat=) -> config`.
      weight_rules: `(config) -> rules` that map parameters to published tensors.
      published_fields: `(config) -> content of config.json` of a tokenizer trained here.
      unused_tensors: `(config) -> tensors` of the published layout that the network does not have.
      paper: arXiv number of the paper, for the model card; "" for none.
      schema: `(fields of SoftVQ-VAE's config) -> fields of its training config`, see `config.kinds`; by default the same.
      resized: `(tensors, image size) -> tensors` for images of another size; None if the kind has a fixed size.
    """

    name: str
    title: str
    config: type[TokenizerConfig]
    network: type[TokenizerModel]
    recognizes: Callable[[Tensors], bool]
    anchors: Sequence[str]
    config_of: Callable[..., TokenizerConfig]
    weight_rules: Callable[[Any], list[Rule]]
    published_fields: Callable[[Any], dict[str, Any]]
    unused_tensors: Callable[[Any], dict[str, np.ndarray]]
    paper: str = ""
    schema: Callable[[Schema], Schema] = lambda schema: schema
    resized: Callable[[Tensors, int], dict[str, np.ndarray]] | None = None


SOFTVQ = TokenizerKind(
    name="softvq",
    title="a SoftVQ-VAE tokenizer",
    config=TokenizerConfig,
    network=TokenizerModel,
    recognizes=lambda tensors: "encoder.latent_tokens" in tensors,
    anchors=tokenizer.ANCHORS,
    config_of=tokenizer.config_of,
    weight_rules=tokenizer.tokenizer_rules,
    published_fields=tokenizer.published_fields,
    unused_tensors=tokenizer.unused_patch_embed,
    paper="2412.10958",
)
TITOK = TokenizerKind(
    name="titok",
    title="a TiTok tokenizer",
    config=TiTokConfig,
    network=TiTokModel,
    recognizes=titok.is_titok,
    anchors=titok.ANCHORS,
    config_of=titok.config_of,
    weight_rules=titok.tokenizer_rules,
    published_fields=titok.published_fields,
    unused_tensors=lambda config: {},
    paper="2406.07550",
    schema=titok_schema,
)
MAETOK = TokenizerKind(
    name="maetok",
    title="a MAETok tokenizer",
    config=MAETokConfig,
    network=MAETokModel,
    recognizes=maetok.is_maetok,
    anchors=tokenizer.ANCHORS,
    config_of=maetok.config_of,
    weight_rules=maetok.tokenizer_rules,
    published_fields=maetok.published_fields,
    unused_tensors=maetok.unused_tensors,
    paper="2502.03444",
    resized=maetok.resized,
    schema=maetok_schema,
)

KINDS: dict[str, TokenizerKind] = {kind.name: kind for kind in (SOFTVQ, TITOK, MAETOK)}
"""The kinds by name. The last kind is tried first, because a MAETok's files have all tensors of a SoftVQ-VAE's."""


def register_kind(kind: TokenizerKind) -> None:
    """Registers a kind for `Tokenizer`, the tools and training, for example in a config file.

    Raises:
      ValueError: another kind has this name.
    """
    if KINDS.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"a kind of tokenizers {kind.name!r} is registered already; choose another name")
    SCHEMAS[kind.name] = kind.schema


def kind_of(config: TokenizerConfig) -> TokenizerKind:
    """Returns the kind of a config; raises ValueError if no registered kind has such configs."""
    for kind in KINDS.values():
        if type(config) is kind.config:
            return kind
    raise ValueError(
        f"{type(config).__name__} belongs to none of the kinds of tokenizers {', '.join(KINDS)}: call register_kind first"
    )


def recognize(tensors: Tensors) -> TokenizerKind:
    """Returns the kind of a published state dict; if none fits, SoftVQ-VAE, so that missing tensors are named."""
    return next((kind for kind in reversed(KINDS.values()) if kind.recognizes(tensors)), SOFTVQ)


def network(config: TokenizerConfig) -> Functional[TokenizerModel]:
    """Returns the network of a config as a pure function of its parameters."""
    return functional(kind_of(config).network, config)


def anchors() -> tuple[str, ...]:
    """Returns the anchors of all kinds."""
    return tuple(dict.fromkeys(anchor for kind in KINDS.values() for anchor in kind.anchors))


def config_from_fields(fields: Mapping[str, Any]) -> TokenizerConfig:
    """Returns a config from nested fields, such as `config.model`; the field `kind` is "softvq" by default.

    Raises:
      ValueError: the kind is unknown, or fields do not fit together.
      KeyError, TypeError: fields are missing or unknown.
    """
    fields = dict(fields)
    name = fields.pop("kind", SOFTVQ.name)
    if name not in KINDS:
        raise ValueError(f"the kind of tokenizer is {name!r}; expected one of {', '.join(KINDS)}")
    return KINDS[name].config.from_dict(fields)


def config_to_dict(config: TokenizerConfig) -> dict[str, Any]:
    """Returns all fields as nested dicts for `config_from_dict`, without empty `bottleneck_args` and the kind "softvq"."""
    fields = dataclasses.asdict(config)
    args, kind = dict(fields.pop("bottleneck_args")), kind_of(config)
    fields |= {"bottleneck_args": args} if args else {}
    return fields if kind is SOFTVQ else {"kind": kind.name} | fields


def config_from_dict(
    fields: Mapping[str, Any], *, source: str | os.PathLike, trust_code: bool = False, **compute: Any
) -> TokenizerConfig:
    """Returns the config in a file, given its nested fields: the inverse of `config_to_dict`.

    Args:
      fields: content of the file.
      source: the file's name, for messages.
      trust_code: whether the fields may name a class that has to be imported first, see `check_code`.
      compute: fields that replace those of the file.

    Raises:
      WeightsError: fields are missing, unknown or do not fit together, or name code that is not trusted.
    """
    if not trust_code:
        check_code(fields.get("bottleneck"), source)
    try:
        return config_from_fields({**fields, **compute})
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{source} does not hold the fields of a tokenizer: {error}") from error
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error


def check_code(bottleneck: Any, source: str | os.PathLike) -> None:
    """Checks that a file does not make this process import code; files may come from other people.

    Bottlenecks of this package, registered ones, and those in imported modules are allowed.

    Raises:
      WeightsError: the bottleneck is "package.module:Class" of a module that is not imported.
    """
    if os.environ.get(TRUST_CODE) == "1" or not isinstance(bottleneck, str) or bottleneck in BOTTLENECKS:
        return
    module, colon, _ = bottleneck.partition(":")
    if colon and module not in sys.modules:
        raise WeightsError(
            f"{source}: its bottleneck {bottleneck!r} is code that opening it would import and run; if you trust it, "
            f"import {module} first, or set trust_code=True (in commands: {TRUST_CODE}=1)"
        )
