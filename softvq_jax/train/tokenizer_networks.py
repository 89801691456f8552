"""The networks of a tokenizer run."""

import dataclasses
from collections.abc import Mapping

from softvq_jax.config.tokenizer import check_kind_fields
from softvq_jax.losses.alignment import check_alignment
from softvq_jax.metrics.image_quality import WINDOWS
from softvq_jax.models.alignment import AlignmentHead, AlignmentTransformer
from softvq_jax.models.discriminators import DinoDiscriminator, PatchGAN
from softvq_jax.models.functional import Functional, functional
from softvq_jax.models.maetok import MAETokConfig
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.train.masked_training import TEACHERS, auxiliary_decoders
from softvq_jax.weights import tokenizer_kinds
from softvq_jax.weights.pretrained import NETWORKS

DISCRIMINATORS = ("dino", "patchgan", "none")


@dataclasses.dataclass(frozen=True)
class TokenizerNetworks:
    """The networks of a run; None for networks that the config does not use.

    `model`, `alignment`, `auxiliary` (a MAETok's decoders by their targets) and `discriminator` are trained; `teacher`,
    `siglip`, `lpips` and `trunk` are frozen. `trunk_size` is the side in pixels of the images that the trunk takes.
    """

    config: TokenizerConfig
    model: Functional[TokenizerModel]
    alignment: Functional | None = None
    discriminator: Functional | None = None
    teacher: Functional | None = None
    siglip: Functional | None = None
    lpips: Functional | None = None
    trunk: Functional | None = None
    trunk_size: int | None = None
    auxiliary: dict[str, Functional] = dataclasses.field(default_factory=dict)


def build(config, arguments: Mapping[str, tuple]) -> TokenizerNetworks:
    """Makes the networks of a training config.

    Args:
      config: the whole training config.
      arguments: arguments of the frozen networks by name, from `weights.pretrained`.

    Raises:
      ValueError: parts of the config do not fit together.
    """
    kind = config.gan.discriminator
    if kind not in DISCRIMINATORS:
        raise ValueError(f"gan.discriminator is {kind!r}; expected one of {', '.join(DISCRIMINATORS)}")
    model = tokenizer_kinds.config_from_fields(config.model.to_dict())
    check_kind(config, model)
    check_size(config, model.image_size)
    compute = dict(dtype=model.dtype, remat=model.remat)
    frozen = ("teacher", "siglip", "lpips", "trunk")
    nets = {name: NETWORKS[name].make(arguments[name], **compute) for name in frozen if name in arguments}
    trunk_size = None
    if "teacher" in arguments and config.loss.alignment_weight:
        teacher, image_size = arguments["teacher"]
        check_alignment(config.alignment.mode, model.num_latent_tokens, teacher.grid(image_size) ** 2)
        nets["alignment"] = _alignment_head(config.alignment, model, teacher.width)
    if kind == "dino":
        trunk, trunk_size = arguments["trunk"]
        nets["discriminator"] = functional(DinoDiscriminator, trunk.width, dtype=model.dtype)
    elif kind == "patchgan":
        nets["discriminator"] = functional(PatchGAN, dtype=model.dtype)
    auxiliary = {}
    if isinstance(model, MAETokConfig):
        teachers = {feature: arguments[name][0] for feature, name in TEACHERS.items() if name in arguments}
        auxiliary = auxiliary_decoders(config, model, {name: shape.width for name, shape in teachers.items()})
    network = tokenizer_kinds.network(model)
    return TokenizerNetworks(model, network, **nets, trunk_size=trunk_size, auxiliary=auxiliary)


def check_kind(config, model: TokenizerConfig) -> None:
    """Raises ValueError if the config of one kind of tokenizer is used for another, or for what this kind cannot do."""
    kind = tokenizer_kinds.kind_of(model)
    check_kind_fields(config, kind.name)
    if config.gan.adaptive and not kind.network.ends_linear:
        raise ValueError(f"gan.adaptive is for decoders that end with a linear map; that of {kind.title} does not")


def check_size(config, image_size: int) -> None:
    """Raises ValueError if the images are too small for SSIM, or for a network of the losses, which then has no output."""
    used = {
        "the SSIM after the last step": WINDOWS["gauss"][0],
        f"gan.discriminator={config.gan.discriminator!r}": 24 if config.gan.discriminator == "patchgan" else 1,
        f"loss.perceptual_weight={config.loss.perceptual_weight:g} (LPIPS)": 16 if config.loss.perceptual_weight else 1,
    }
    for field, least in used.items():
        if image_size < least:
            raise ValueError(f"{field} needs images of at least {least} pixels, but model.image_size is {image_size}")


def _alignment_head(section, model: TokenizerConfig, teacher_width: int) -> Functional:
    """Returns the projection of the latents to the teacher's channels, which `config.alignment` describes."""
    if section.channels > model.latent_dim:
        raise ValueError(
            f"alignment.channels is {section.channels}; expected at most latent_dim, {model.latent_dim}, or 0 for all"
        )
    widths = (section.channels or model.latent_dim, section.hidden, teacher_width)
    if section.head == "mlp":
        return functional(AlignmentHead, *widths, dtype=model.dtype)
    length = 1 if section.mode == "global" else model.num_latent_tokens
    return functional(AlignmentTransformer, length, *widths, depth=section.depth, dtype=model.dtype)
