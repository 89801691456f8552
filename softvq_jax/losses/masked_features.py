"""Losses of predicted patch features, averaged over the masked patches (MAETok, arXiv 2502.03444, section 3.2)."""

import jax
import jax.numpy as jnp

from softvq_jax.unit_vectors import unit_vectors


def masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean of `values` `[B, N]` where `mask` is true, 0 if it is true nowhere; the mean of all without a mask."""
    if mask is None:
        return jnp.mean(values)
    weights = mask.astype(values.dtype)
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def squared_error(predicted: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean squared error of features `[B, N, F]` over the masked patches, in float32; for HOG."""
    return masked_mean(jnp.mean(jnp.square(predicted.astype(jnp.float32) - targets), axis=-1), mask)


def negative_cosine(predicted: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`-cos` of features `[B, N, F]`, averaged over the masked patches, in float32; for features of teachers."""
    return masked_mean(-jnp.sum(unit_vectors(predicted) * unit_vectors(targets), axis=-1), mask)
