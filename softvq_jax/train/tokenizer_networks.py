"""The networks of a tokenizer run."""

import dataclasses

from softvq_jax.losses.alignment import check_alignment
from softvq_jax.models.alignment import AlignmentHead
from softvq_jax.models.dino_trunk import DinoTrunk
from softvq_jax.models.discriminators import DinoDiscriminator, PatchGAN
from softvq_jax.models.functional import Functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.models.vit import ViT, ViTConfig

DISCRIMINATORS = ("dino", "patchgan", "none")


@dataclasses.dataclass(frozen=True)
class TokenizerNetworks:
    """Each network of a run, or None where the config does without it.

    `model`, `alignment` and `discriminator` are trained; `teacher`, `lpips` and `trunk` are frozen. `trunk_size` is the
    side in pixels of the images that the trunk takes.
    """

    config: TokenizerConfig
    model: Functional
    alignment: Functional | None
    discriminator: Functional | None
    teacher: Functional | None
    lpips: Functional | None
    trunk: Functional | None
    trunk_size: int | None

    @property
    def frozen(self) -> dict[str, Functional]:
        """The frozen networks that this run has, by name."""
        nets = {name: getattr(self, name) for name in ("teacher", "lpips", "trunk")}
        return {name: net for name, net in nets.items() if net is not None}


def build(config, *, teacher: ViTConfig | None, trunk: tuple[ViTConfig, int] | None) -> TokenizerNetworks:
    """The networks that a training config asks for.

    Args:
      config: the whole training config.
      teacher: shape of the alignment teacher, as its weights say; None without alignment.
      trunk: shape and image size of the DINO discriminator's trunk; None for the others.

    Raises:
      ValueError: parts of the config that do not fit together.
    """
    model = TokenizerConfig.from_dict(config.model.to_dict())
    size, dtype = model.image_size, model.dtype
    compute = dict(dtype=dtype, remat=model.remat)
    kind = config.gan.discriminator
    if kind not in DISCRIMINATORS:
        raise ValueError(f"gan.discriminator is {kind!r}; expected one of {', '.join(DISCRIMINATORS)}")

    nets = dict.fromkeys(("alignment", "discriminator", "teacher", "lpips", "trunk", "trunk_size"))
    if teacher is not None:
        check_alignment(config.alignment.mode, model.num_latent_tokens, teacher.grid(size) ** 2)
        widths = (model.latent_dim, config.alignment.hidden, teacher.width)
        nets["alignment"] = Functional(lambda rngs: AlignmentHead(*widths, dtype=dtype, rngs=rngs))
        nets["teacher"] = Functional(lambda rngs: ViT(teacher, size, **compute, rngs=rngs))
    if config.loss.perceptual_weight:
        nets["lpips"] = Functional(lambda rngs: LPIPS(dtype=dtype, rngs=rngs))
    if kind == "dino":
        nets["trunk"], nets["trunk_size"] = Functional(lambda rngs: DinoTrunk(*trunk, **compute, rngs=rngs)), trunk[1]
        nets["discriminator"] = Functional(lambda rngs: DinoDiscriminator(trunk[0].width, dtype=dtype, rngs=rngs))
    elif kind == "patchgan":
        nets["discriminator"] = Functional(lambda rngs: PatchGAN(dtype=dtype, rngs=rngs))
    return TokenizerNetworks(model, Functional(lambda rngs: TokenizerModel(model, rngs=rngs)), **nets)
