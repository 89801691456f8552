"""REPA: a generator's hidden tokens are aligned with a teacher's patches (arXiv 2410.06940, section 3.3).

The tokens after a block pass through a projection, and are compared with the features of the clean image by cosine. In the
paper tokens and patches lie on the same grid. Here tokens are 1-D: `L` tokens are matched with `N` patches as the
tokenizer's alignment mode "repeat" does, token `i` with patches `i N/L ... (i+1) N/L - 1`. This matching is ours.
"""

import dataclasses
from typing import Any

import jax
import optax
from flax import nnx
from ml_collections import ConfigDict

from softvq_jax.losses.alignment import alignment_loss, check_alignment
from softvq_jax.models.alignment import AlignmentHead
from softvq_jax.models.dinov2 import patch_features
from softvq_jax.models.dit import DiT, DiTConfig
from softvq_jax.models.functional import Functional, functional
from softvq_jax.pixels import as_float
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import pretrained


@dataclasses.dataclass(frozen=True)
class Repa:
    """The loss and its networks.

    Attributes:
      weight: weight of the loss.
      block: number of blocks before the aligned tokens.
      teacher, head: the frozen teacher and the projection `[B, L, width] -> [B, L, teacher width]`.
      params: the teacher's parameters as host arrays.
      optimizer: of the projection.
    """

    weight: float
    block: int
    teacher: Functional
    head: Functional
    params: Any
    optimizer: optax.GradientTransformation

    def targets(self, frozen, images: jax.Array) -> jax.Array:
        """Returns the teacher's patch features `[B, N, teacher width]` of images `[B, H, W, 3]`, uint8 or in [-1, 1]."""
        return jax.lax.stop_gradient(patch_features(self.teacher(frozen["teacher"]), as_float(images)))

    def loss(self, head_params, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns the negative mean cosine of the projected tokens `[B, L, width]` and the targets."""
        return alignment_loss(self.head(head_params)(tokens), targets)


class Tapped:
    """A DiT whose attribute `tokens` has the tokens `[B, L, width]` after block number `block`, of the last call."""

    def __init__(self, network: nnx.Module, block: int):
        assert isinstance(network, DiT), "checked by open_repa"
        self.network, self.config, self.block = network, network.config, block
        self.tokens: jax.Array | None = None

    def __call__(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        output, self.tokens = self.network.with_tokens(x, t, labels, block=self.block)
        return output


def open_repa(
    config: ConfigDict, network: Any, tokenizer: Tokenizer | None, optimizer: optax.GradientTransformation
) -> Repa | None:
    """Returns the loss that `config.repa` describes; None if its weight is 0.

    Args:
      config: of a generator's run.
      network: the config of the generator's network.
      tokenizer: encodes the images; None for stored latents.
      optimizer: of the projection.

    Raises:
      ValueError: the run has no images, or the generator does not fit.
      MissingWeights: the teacher's weights cannot be found.
    """
    section = config.repa
    if not section.weight:
        return None
    if config.data.source == "latents" or tokenizer is None:
        raise ValueError(
            f"repa.weight={section.weight:g} compares with features of images, but data.source={config.data.source!r} "
            "holds none: set data.source and data.path to images, or repa.weight=0"
        )
    if not isinstance(network, DiTConfig) or section.block > network.depth:
        found = f"of {network.depth} blocks" if isinstance(network, DiTConfig) else "without such blocks"
        raise ValueError(
            f"repa.block={section.block}: expected a SiT or DiT of at least as many blocks, but the generator is a "
            f"{config.model.family} {found}; set repa.block or repa.weight=0"
        )
    size, patch_size = tokenizer.config.image_size, tokenizer.config.encoder.patch_size
    (shape, _), params = pretrained.load_teacher(section.teacher, size, patch_size)
    check_alignment("repeat", network.num_tokens, shape.grid(size) ** 2)
    compute = dict(dtype=network.dtype, remat=network.remat)
    head = functional(AlignmentHead, network.width, section.hidden, shape.width, dtype=network.dtype)
    teacher = pretrained.NETWORKS["teacher"].make((shape, size), **compute)
    return Repa(section.weight, section.block, teacher, head, params, optimizer)
