"""Alignment head, which maps latents to the teacher's features (SoftVQ-VAE, section 3.3)."""

import jax
from flax import nnx

from softvq_jax.models import layers


class AlignmentHead(nnx.Module):
    """SiLU MLP of three layers, `D -> hidden -> hidden -> teacher width` on the last axis."""

    def __init__(self, latent_dim: int, hidden: int, teacher_width: int, *, dtype=None, rngs: nnx.Rngs):
        self.fc1 = layers.linear(latent_dim, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = layers.linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.fc3 = layers.linear(hidden, teacher_width, dtype=dtype, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        return self.fc3(jax.nn.silu(self.fc2(jax.nn.silu(self.fc1(latents)))))
