"""Images on their way between 8 bits and floats, inside compiled programs."""

import jax
import jax.numpy as jnp


def as_float(images: jax.Array) -> jax.Array:
    """uint8 images, which are cheap to move, to float32 in [-1, 1]; floats stay as they are."""
    return images.astype(jnp.float32) / 127.5 - 1.0 if images.dtype == jnp.uint8 else images


def to_levels(images: jax.Array) -> jax.Array:
    """[-1, 1] to the 256 levels of 8-bit images, rounded, as float32."""
    return jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5)
