"""Initialization for small transformers trained from scratch, which keeps all activations at a similar size.

Kernels of ViTs start with standard deviation 0.02, which is right for 1,024 channels. In a network of 96 channels, such
kernels shrink their inputs about five times, and positions, latent tokens and mask tokens of 0.02 are negligible beside the
patches. Attention then starts uniform and all latents start equal, and a run of minutes is mostly over before they differ.
Here kernels keep the size of their inputs, and positions and tokens are as large as the patches. Unlike
`models.local_init`, this does not assign patches to latents.
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx

if TYPE_CHECKING:
    from softvq_jax.models.tokenizer import TokenizerModel

TOKEN_STD = 0.5  # of positions and learned tokens
TOKENS = ("pos_embed", "latent_pos_embed", "latent_tokens", "mask_token", "cls_token")
KEPT = ("modulation",)  # kernels that start at zero on purpose


def start_unit(model: "TokenizerModel", rngs: nnx.Rngs) -> None:
    """Sets the parameters of a new `models.tokenizer.TokenizerModel`, except those of the bottleneck.

    Kernels `[..., in, out]` are normal with standard deviation `in^-0.5`; positions and tokens with `TOKEN_STD`. Latents of
    a codebook have norm 1, not `in^0.5`, so the kernel that embeds them has standard deviation 1.
    """

    def restart(path, value):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if names[-1] == "kernel" and not set(KEPT) & set(names):
            return jax.random.normal(rngs.params(), value.shape) * value.shape[-2] ** -0.5
        if names[-1] in TOKENS:
            return TOKEN_STD * jax.random.normal(rngs.params(), value.shape)
        return value

    for part in (model.encoder, model.to_latents, model.decoder):
        params = nnx.to_pure_dict(nnx.state(part, nnx.Param))
        nnx.update(part, jax.tree_util.tree_map_with_path(restart, params))
    if hasattr(model.bottleneck, "codes"):
        embed = model.decoder.embed_latents.kernel
        embed[...] = embed[...] * embed.shape[0] ** 0.5
