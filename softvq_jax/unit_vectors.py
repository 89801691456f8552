"""Normalization of vectors to unit length."""

import jax
import jax.numpy as jnp


def unit_vectors(x: jax.Array) -> jax.Array:
    """Normalizes vectors along the last axis to L2 norm 1, in float32; norms below 1e-12 count as 1e-12, as in PyTorch."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))
