"""The training config of a latent generator.

A file in `configs/` calls `generator_config(...)` and changes the fields of its experiment. The sections `optim`, `train`,
`data`, `mesh`, `checkpoint`, `log` and `evals` have the same fields as a tokenizer's.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from softvq_jax.config.evals import evals_schema
from softvq_jax.config.fields import Field, Schema, defaults, integer, number, one_of, text
from softvq_jax.config.networks import DTYPE, REMAT
from softvq_jax.config.optim import OPTIM
from softvq_jax.config.repa import REPA
from softvq_jax.config.run import RUN
from softvq_jax.config.schemas import register_schema
from softvq_jax.config.start import START
from softvq_jax.config.tokenizer import SEED
from softvq_jax.generators.family import FAMILIES, Family, check_name, find_family


class Latents(NamedTuple):
    """Size of the latents of a published tokenizer: `num_tokens` tokens of `channels` channels."""

    tokenizer: str
    num_tokens: int
    channels: int


LATENTS = {
    "l64": Latents("SoftVQVAE/softvq-l-64", 64, 32),
    "l32": Latents("SoftVQVAE/softvq-l-32", 32, 64),
}


def generator_schema(family: Family) -> Schema:
    """Returns all fields of the config of a family's generators."""
    return {
        "task": Field("generator", "What is trained.", one_of("generator")),
        "seed": SEED,
        **START,
        "tokenizer": Field(
            LATENTS["l64"].tokenizer,
            "Tokenizer of the latents: a folder, a run's workdir or a Hugging Face id. Empty: trains on stored latents, "
            "without sample images.",
            text(),
        ),
        "model": {
            "family": Field(family.name, "Generator family.", one_of(*FAMILIES)),
            "num_tokens": Field(64, "Latent tokens of each image, L in the paper.", integer(1), "tokens"),
            "channels": Field(32, "Channels of each latent token, D in the paper.", integer(1), "channels"),
            "num_classes": Field(
                1000, "Classes of the data; the label num_classes means no class.", integer(1), "classes"
            ),
            **family.fields["model"],
            "dtype": DTYPE,
            "remat": REMAT,
        },
        "objective": {
            "label_dropout": Field(
                0.1, "Share of labels that training drops, for classifier-free guidance.", number(0, 1), "probability"
            ),
            "latent_statistics": Field(
                "scalar",
                'Mean and standard deviation that normalize the latents: "scalar": of all values, as published; "channel": '
                "of each channel.",
                one_of("scalar", "channel"),
            ),
            **family.fields["objective"],
        },
        "sampling": {
            "steps": Field(
                _default_steps(family, 64),
                "Denoising steps; of a MAR, iterations over the tokens.",
                integer(1),
                "steps",
            ),
            "guidance": Field(1.75, "Scale of classifier-free guidance in evaluations; 1 is none.", number()),
            **family.fields["sampling"],
        },
        "repa": REPA,
        "optim": OPTIM,
        **RUN,
        "evals": evals_schema("held_out", "fid", "nearest_class"),
    }


register_schema("generator", lambda config: generator_schema(find_family(config.model.family)))


def generator_config(family: str, size: str, latents: str = "l64") -> ConfigDict:
    """Returns a generator's training config, locked: fields can be set, but not added.

    Args:
      family: name of a registered family: "sit", "dit" or "mar".
      size: name of one of the family's presets: "S", "B", "L", "XL" for SiT and DiT; "B", "L", "H" for MAR.
      latents: "l64" or "l32", the latents of the published tokenizers.

    Raises:
      ValueError: the family, size or kind of latents is unknown.
    """
    chosen = find_family(family)
    check_name(size, chosen.presets, f"size of a {family}")
    check_name(latents, LATENTS, "latents")
    config = ConfigDict(defaults(generator_schema(chosen)))
    config.tokenizer, num_tokens, channels = LATENTS[latents]
    config.model.update(chosen.presets[size])
    config.model.update(num_tokens=num_tokens, channels=channels)
    config.sampling.steps = _default_steps(chosen, num_tokens)
    config.optim.update(chosen.optimizer_defaults)
    config.train.update(chosen.train_defaults)
    config.data.update(source="latents", holdout=0.004)
    config.evals.held_out.every_steps = 10_000
    config.lock()
    return config


def config_from_argument(family: str, argument: str) -> ConfigDict:
    """Returns the config that a config file's argument selects, for `get_config(argument)`.

    Args:
      family: name of a registered family.
      argument: size and latents, such as "xl_l64".

    Raises:
      ValueError: the argument is unknown; the message lists the known ones.
    """
    known = {
        f"{size.lower()}_{latents}": (size, latents) for size in find_family(family).presets for latents in LATENTS
    }
    if argument not in known:
        raise ValueError(f"--config={family}:{argument}: expected {family}:SIZE_LATENTS, one of {', '.join(known)}")
    return generator_config(family, *known[argument])


def _default_steps(family, num_tokens):
    steps = next(iter(family.samplers.values())).steps
    return num_tokens if steps is None else steps
