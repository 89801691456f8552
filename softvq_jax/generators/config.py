"""The training config of a latent generator.

A file in `configs/` calls `generator_config(...)` and changes the fields of its experiment. The sections `optim`, `train`,
`data`, `mesh`, `checkpoint`, `log` and `evals` have the same fields as a tokenizer's.
"""

from collections.abc import Mapping
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


class TokenizerCodes(NamedTuple):
    """Codes of a published tokenizer: `num_tokens` tokens, one codebook of `codebook_size` codes."""

    tokenizer: str
    num_tokens: int
    codebook_size: int


LATENTS = {
    "l64": Latents("SoftVQVAE/softvq-l-64", 64, 32),
    "l32": Latents("SoftVQVAE/softvq-l-32", 32, 64),
}
CODES = {
    "vq64": TokenizerCodes("yucornetto/tokenizer_titok_b64_imagenet", 64, 4096),
    "vq32": TokenizerCodes("yucornetto/tokenizer_titok_l32_imagenet", 32, 4096),
    "vq128": TokenizerCodes("yucornetto/tokenizer_titok_s128_imagenet", 128, 4096),
}
MAETOK_LATENTS = {  # for SiT, the family published for them
    "maetok_b128": Latents("MAETok/maetok-b-128", 128, 32),
    "maetok_b128_512": Latents("MAETok/maetok-b-128-512", 128, 32),
}


def latents_of(family: Family) -> Mapping[str, Latents | TokenizerCodes]:
    """Returns the latents or codes of published tokenizers that a family's generators can be trained on, by name."""
    if family.discrete:
        return CODES
    return LATENTS | (MAETOK_LATENTS if family.name == "sit" else {})


_LATENTS_FIELDS: Schema = {
    "channels": Field(32, "Channels of each latent token, D in the paper.", integer(1), "channels"),
}
_STATISTICS_FIELDS: Schema = {
    "latent_statistics": Field(
        "scalar",
        'Mean and standard deviation that normalize the latents: "scalar": of all values, as published; "channel": '
        "of each channel.",
        one_of("scalar", "channel"),
    ),
}
_CODES_FIELDS: Schema = {
    "codebook_size": Field(4096, "Codes of each codebook of the tokenizer.", integer(1), "codes"),
    "num_codebooks": Field(1, "Codebooks of the tokenizer.", integer(1), "codebooks"),
}


def generator_schema(family: Family) -> Schema:
    """Returns all fields of the config of a family's generators."""
    return {
        "task": Field("generator", "What is trained.", one_of("generator")),
        "seed": SEED,
        **START,
        "tokenizer": Field(
            next(iter(latents_of(family).values())).tokenizer,
            "Tokenizer of the latents: a folder, a run's workdir or a Hugging Face id. Empty: trains on stored latents, "
            "without sample images.",
            text(),
        ),
        "model": {
            "family": Field(family.name, "Generator family.", one_of(*FAMILIES)),
            "num_tokens": Field(64, "Latent tokens of each image, L in the paper.", integer(1), "tokens"),
            **(_CODES_FIELDS if family.discrete else _LATENTS_FIELDS),
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
            **({} if family.discrete else _STATISTICS_FIELDS),
            **family.fields["objective"],
        },
        "sampling": {
            "steps": Field(
                _default_steps(family, 64),
                "Denoising steps; of a MAR or MaskGIT, iterations over the tokens.",
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


def generator_config(family: str, size: str, latents: str = "") -> ConfigDict:
    """Returns a generator's training config, locked: fields can be set, but not added.

    Args:
      family: name of a registered family: "sit", "dit", "mar" or "maskgit".
      size: name of one of the family's presets: "S", "B", "L", "XL" for SiT and DiT; "B", "L", "H" for MAR; "B" (ImageBert)
        and "U" (UViTBert) for MaskGIT.
      latents: a name in `latents_of(family)`, such as "l64" or "vq64"; by default the first.

    Raises:
      ValueError: the family, the size or the latents are unknown.
    """
    chosen = find_family(family)
    check_name(size, chosen.presets, f"size of a {family}")
    known = latents_of(chosen)
    latents = latents or next(iter(known))
    check_name(latents, known, "latents")
    config = ConfigDict(defaults(generator_schema(chosen)))
    sizes = known[latents]._asdict()
    config.tokenizer = sizes.pop("tokenizer")
    config.model.update(chosen.presets[size])
    config.model.update(sizes)
    config.sampling.steps = _default_steps(chosen, sizes["num_tokens"])
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
    chosen = find_family(family)
    known = {f"{size.lower()}_{latents}": (size, latents) for size in chosen.presets for latents in latents_of(chosen)}
    if argument not in known:
        raise ValueError(f"--config={family}:{argument}: expected {family}:SIZE_LATENTS, one of {', '.join(known)}")
    return generator_config(family, *known[argument])


def _default_steps(family, num_tokens):
    steps = next(iter(family.samplers.values())).steps
    return num_tokens if steps is None else steps
