"""Losses of masked patches against NumPy."""

import jax
import numpy as np
import pytest

from softvq_jax.losses import masked_features

RNG = np.random.default_rng(0)
PREDICTED, TARGETS = RNG.standard_normal((2, 3, 5, 7)).astype(np.float32)
MASK = RNG.random((3, 5)) < 0.5


@pytest.mark.parametrize("mask", [MASK, None])
def test_means_over_masked_patches(mask):
    chosen = np.ones_like(MASK) if mask is None else mask
    p, t = np.float64(PREDICTED[chosen]), np.float64(TARGETS[chosen])
    norms = np.linalg.norm(p, axis=-1) * np.linalg.norm(t, axis=-1)
    cosine = masked_features.negative_cosine(PREDICTED, TARGETS, mask)
    np.testing.assert_allclose(cosine, -np.mean(np.sum(p * t, axis=-1) / norms), rtol=1e-5)
    error = masked_features.squared_error(PREDICTED, TARGETS, mask)
    np.testing.assert_allclose(error, np.mean((p - t) ** 2), rtol=1e-5)


def test_nothing_masked():
    """At the end of the decoder's stage the share is 0: the loss is 0 and so is its gradient."""
    value, grad = jax.value_and_grad(masked_features.squared_error)(PREDICTED, TARGETS, np.zeros((3, 5), bool))
    assert value == 0 and not grad.any()
