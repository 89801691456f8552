"""Pixel losses."""

import jax
import jax.numpy as jnp


def pixel_l2(reconstructions: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the mean squared error over pixels, channels and batch, in float32."""
    return jnp.mean(jnp.square(reconstructions.astype(jnp.float32) - images.astype(jnp.float32)))
