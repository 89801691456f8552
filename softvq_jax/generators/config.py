"""The training config of a latent generator: every field, its default and its meaning.

A file in `configs/` starts from `generator_config(...)` and changes what its experiment changes. The sections `optim`,
`train`, `data`, `mesh`, `checkpoint`, `log` and those of the evaluation are the same as a tokenizer's.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from softvq_jax.config.fields import Field, Schema, defaults, flatten, integer, number, one_of, text
from softvq_jax.config.tokenizer import optim_section, run_sections
from softvq_jax.generators.family import FAMILIES, Family, check_name, find_family


class Latents(NamedTuple):
    """Latents of a published tokenizer: `num_tokens` of `channels`."""

    tokenizer: str
    num_tokens: int
    channels: int


LATENTS = {
    "l64": Latents("SoftVQVAE/softvq-l-64", 64, 32),
    "l32": Latents("SoftVQVAE/softvq-l-32", 32, 64),
}


DTYPE = one_of("bfloat16", "float32")
REMAT = one_of("none", "dots", "full")


def generator_schema(family: Family) -> Schema:
    """The fields of a generator's config that a tokenizer's config does not have, or has with another meaning."""
    return {
        "tokenizer": Field(
            LATENTS["l64"].tokenizer,
            "Tokenizer of the latents: a folder, a run's workdir or a Hugging Face id. Without one (the empty string), "
            "training on stored latents works, but draws no images.",
            text(),
        ),
        "model": {
            "family": Field(family.name, "Generator family.", one_of(*FAMILIES)),
            "num_tokens": Field(64, "Tokens of an image's latents.", integer(1), "tokens"),
            "channels": Field(32, "Channels of each token.", integer(1), "channels"),
            "num_classes": Field(1000, "Classes of the training data; label num_classes means none.", integer(1)),
            **family.fields["model"],
            "dtype": Field("bfloat16", "Type of the matrix products; parameters are float32.", DTYPE),
            "remat": Field("none", "What the backward pass recomputes: more of it trades speed for memory.", REMAT),
        },
        "objective": {
            "label_dropout": Field(0.1, "Share of labels dropped in training, for guidance.", number(0, 1)),
            **family.fields["objective"],
        },
        "sampling": {
            "steps": Field(_default_steps(family, 64), "Sampling steps; of a MAR, iterations.", integer(1), "steps"),
            "guidance": Field(1.75, "Scale of classifier-free guidance; 1 is none.", number()),
            **family.fields["sampling"],
        },
    }


def generator_config(family: str, size: str, latents: str = "l64") -> ConfigDict:
    """A generator's whole training config, locked: fields can be set, not added.

    Args:
      family: name of a registered family: "sit", "dit" or "mar".
      size: one of the family's presets: "S", "B", "L", "XL" of SiT and DiT; "B", "L", "H" of MAR.
      latents: "l64" or "l32", those of the published tokenizers.

    Raises:
      ValueError: an unknown family, size or kind of latents.
    """
    chosen = find_family(family)
    check_name(size, chosen.presets, f"size of a {family}")
    check_name(latents, LATENTS, "latents")
    tokenizer, num_tokens, channels = LATENTS[latents]
    config = ConfigDict(dict(task="generator", seed=0) | defaults(generator_schema(chosen)))
    config.tokenizer = tokenizer
    config.model.update(num_tokens=num_tokens, channels=channels)
    config.model.update(chosen.presets[size])
    config.sampling.steps = _default_steps(chosen, num_tokens)
    config.optim = optim_section(**chosen.optimizer_defaults)
    config.update(run_sections())
    config.data.update(source="latents", holdout=0.004)
    config.train.update(chosen.train_defaults)
    config.eval.update(every_steps=10_000, nearest_class=False)  # True: do samples look like their class's photographs?
    config.lock()
    return config


def check_generator_config(config: ConfigDict) -> Family:
    """Checks the fields of `generator_schema`, and returns the family.

    Raises:
      ValueError: the first field that has a value which is not allowed.
    """
    family = find_family(config.model.family)
    for name, field in flatten(generator_schema(family)).items():
        value = config
        for part in name.split("."):
            value = value[part]
        if not field.allowed.check(value):
            raise ValueError(f"{name} is {value!r}; expected {field.allowed.text}")
    return family


def _default_steps(family, num_tokens):
    steps = next(iter(family.samplers.values())).steps
    return num_tokens if steps is None else steps
