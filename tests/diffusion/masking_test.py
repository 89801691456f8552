"""Masks against the statistics the paper states; the sampling loop against a loop over single tokens."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from softvq_jax.diffusion import masking


def test_training_masks():
    """One share for the batch, from the truncated normal; each token as likely as any other."""
    length, batch = 64, 16
    draw = jax.jit(jax.vmap(lambda key: masking.draw_mask(batch, length, key)))
    masks = np.asarray(draw(jax.random.split(jax.random.key(0), 800)))
    counts = masks.sum(-1)
    assert (counts == counts[:, :1]).all()
    assert counts.min() >= length - masking.max_visible(length) == 45 and counts.max() == length

    share = stats.truncnorm((0.7 - 1) / 0.25, 0, loc=1, scale=0.25)
    edges = np.arange(44, 65)
    expected = len(masks) * np.diff(share.cdf(edges / length)) / share.cdf(1.0)
    observed = np.bincount(counts[:, 0], minlength=65)[45:]
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.01
    np.testing.assert_allclose(masks.mean((0, 1)), masks.mean(), atol=0.02)
    assert (masks[0, 0] != masks[0, 1]).any()


@pytest.mark.parametrize(("length", "iterations"), [(64, 64), (64, 8), (32, 32), (5, 1)])
def test_masked_counts(length, iterations):
    counts = masking.masked_counts(length, iterations)
    assert counts[0] == length and counts[-1] == 0 and (np.diff(counts) < 0).all()
    schedule = np.floor(length * np.cos(np.pi / 2 * np.arange(iterations) / iterations))
    # The cosine schedule, unless that would fill nothing.
    assert all(c in (s, before - 1) for c, s, before in zip(counts[1:-1], schedule[1:], counts, strict=False))


def test_masked_counts_of_eight():
    """64 cos(pi i / 16), rounded down."""
    np.testing.assert_array_equal(masking.masked_counts(64, 8), [64, 62, 59, 53, 45, 35, 24, 12, 0])


def test_guidance_ramp():
    np.testing.assert_allclose(masking.guidance_ramp(3.0, np.array([48, 32, 0]), 64), [1.5, 2.0, 3.0])


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_fill_tokens(iterations):
    """Each token is the count of tokens known before its iteration; the loop below fills from each order's end."""
    length, channels, scale = 10, 2, 4.0
    orders = masking.random_orders(jax.random.split(jax.random.key(0), 3), length)

    def predict(latents, masked, positions, guidance, number):
        known = (~masked).sum(axis=1)[:, None] + 100 * latents.sum((1, 2))[:, None] + guidance + 1000 * number
        return jnp.broadcast_to((known + 0.1 * positions)[..., None], (*positions.shape, channels))

    ours = jax.jit(lambda orders: masking.fill_tokens(predict, orders, channels, iterations, scale))(orders)

    counts = masking.masked_counts(length, iterations)
    expected = np.zeros((3, length, channels))
    for row, order in zip(expected, np.asarray(orders), strict=True):
        for i, (before, after) in enumerate(itertools.pairwise(counts)):
            guidance = 1 + (scale - 1) * (length - after) / length
            base = length - before + 100 * row.sum() + guidance + 1000 * i
            row[order[after:before]] = (base + 0.1 * order[after:before])[:, None]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_too_many_iterations():
    with pytest.raises(ValueError, match="65 iterations for 64 tokens; expected 1 to 64"):
        masking.masked_counts(64, 65)


def test_training_masks_of_maetok():
    """Shares from a normal(0.6, 0.25) truncated to [0.4, 0.6], rounded up."""
    draw = jax.jit(jax.vmap(lambda key: masking.draw_mask(2, 256, key, least=0.4, most=0.6)))
    counts = np.asarray(draw(jax.random.split(jax.random.key(0), 500))).sum(-1)
    assert (counts[:, 0] == counts[:, 1]).all() and 103 <= counts.min() < counts.max() <= 154
    share = stats.truncnorm(-0.2 / 0.25, 0, loc=0.6, scale=0.25)
    assert stats.kstest((counts[:, 0] - 0.5) / 256, share.cdf).pvalue > 0.01


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_mask_share(share):
    mask = np.asarray(jax.jit(lambda share: masking.mask_share(3, 7, share, jax.random.key(0)))(share))
    assert (mask.sum(1) == np.ceil(7 * share)).all()
