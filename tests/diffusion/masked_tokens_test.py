"""Masked generation against a direct loop in numpy; the release's own numbers are in the parity cases."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.diffusion import masked_tokens
from softvq_jax.parallel import batch_random

K, LENGTH, BATCH, MASK = 7, 12, 3, 7


def release_loop(logits, uniforms, steps, temperature, anneal):
    """The release's sampling, one step and one example at a time."""
    tokens = np.full((BATCH, LENGTH), MASK)
    gumbel = lambda u: -np.log(np.maximum(-np.log(np.maximum(u, 1e-20)), 1e-20))  # noqa: E731
    for step in range(steps):
        ratio = (step + 1) / steps
        t = temperature * (1 - ratio)
        guided = logits(tokens, step) / ((0.5 + 0.8 * (1 - ratio)) if anneal else 1)
        for b in range(BATCH):
            masked = tokens[b] == MASK
            drawn = np.argmax(guided[b] + t * gumbel(uniforms[step][0][b]), axis=-1)
            confidence = np.where(masked, guided[b, np.arange(LENGTH), drawn], np.inf)
            confidence = confidence + t * gumbel(uniforms[step][1][b])
            tokens[b] = np.where(masked, drawn, tokens[b])
            if step < steps - 1:
                scheduled = math.floor(LENGTH * math.acos(ratio) / (math.pi / 2))
                count = max(1, min(masked.sum() - 1, scheduled))
                tokens[b, np.argsort(confidence)[:count]] = MASK
    return tokens


@pytest.mark.parametrize(("steps", "anneal"), [(1, False), (5, False), (12, True), (15, False)])
def test_sampling_is_the_loop(steps, anneal):
    rng = np.random.default_rng(steps)
    table, mixing = rng.standard_normal((MASK + 1, K)), rng.standard_normal((LENGTH, LENGTH))
    uniforms = [(rng.random((BATCH, LENGTH, K)), rng.random((BATCH, LENGTH))) for _ in range(steps)]

    def logits(tokens, step, xp=np):
        return xp.einsum("ij,bjk->bik", xp.asarray(mixing), xp.asarray(table)[tokens]) * (1 + 0.1 * step)

    stacked = [jnp.asarray(np.stack(part)) for part in zip(*uniforms, strict=True)]
    tokens = jax.jit(
        lambda: masked_tokens.sample_tokens(
            lambda tokens, step: logits(tokens, step, jnp),
            lambda step: (stacked[0][step], stacked[1][step]),
            (BATCH, LENGTH),
            mask_token=MASK,
            steps=steps,
            temperature=2.0,
            anneal_softmax=anneal,
        )
    )()
    np.testing.assert_array_equal(tokens, release_loop(logits, uniforms, steps, 2.0, anneal))
    assert tokens.max() < K


def test_masked_after_steps():
    np.testing.assert_array_equal(masked_tokens.masked_after_steps(32, 4), [26, 21, 14, 0])
    np.testing.assert_array_equal(masked_tokens.masked_after_steps(2, 4), [1, 1, 1, 0])
    with pytest.raises(ValueError, match="steps is 0; expected at least 1"):
        masked_tokens.masked_after_steps(8, 0)


def test_guidance_weights():
    """Weights of `cond - uncond`, added to `cond`; the release adds power-cosine's to `uncond`."""
    np.testing.assert_allclose(masked_tokens.guidance_weights("linear", 4.5, 3), [0, 1.5, 3])
    np.testing.assert_allclose(masked_tokens.guidance_weights("constant", 4.5, 2), [4.5, 4.5])
    expected = [5.9 * (1 - math.cos(math.pi * (step / 4) ** 3)) / 2 for step in range(4)]
    np.testing.assert_allclose(masked_tokens.guidance_weights("power-cosine", 6.9, 4), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="'cosine'; expected one of linear, power-cosine, constant"):
        masked_tokens.guidance_weights("cosine", 1.0, 4)


def test_draws_depend_only_on_the_examples_key():
    keys = jax.random.split(jax.random.key(0), 4)
    codes, confidence = masked_tokens.uniform_from_keys(keys, LENGTH, K)(2)
    assert codes.shape == (4, LENGTH, K) and confidence.shape == (4, LENGTH)
    alone = masked_tokens.uniform_from_keys(keys[2:3], LENGTH, K)
    np.testing.assert_array_equal(alone(2)[0][0], codes[2])
    assert not np.allclose(alone(1)[0][0], codes[2])


def test_training_masks():
    """The share is arccos(u), whose mean is 2/pi, and the masked places are drawn for each example."""
    masks, whole = map(np.asarray, masked_tokens.draw_masks(4000, LENGTH, jax.random.key(0)))
    np.testing.assert_array_equal(masks, whole)
    assert masks.sum(1).min() >= 1
    assert masks.mean() == pytest.approx(2 / math.pi, abs=0.02)
    np.testing.assert_allclose(masks.mean(0), 2 / math.pi, atol=0.04)
    counts = masked_tokens.masked_count(jnp.array([0.0, 0.5, 0.9999999]), LENGTH)
    np.testing.assert_array_equal(counts, [12, 8, 1])


def test_training_masks_in_pieces():
    """Piece i of two has the examples i, i + 2, ... of the batch, each with the mask that it has in the whole batch."""
    expected, _ = masked_tokens.draw_masks(6, LENGTH, jax.random.key(1))
    for index in range(2):
        with batch_random.piece(index, 2):
            masks, whole = masked_tokens.draw_masks(3, LENGTH, jax.random.key(1))
        np.testing.assert_array_equal(masks, expected[index::2])
        np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((2, 3, K)), rng.integers(0, K, (2, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    q = np.full(p.shape, smoothing / K) + (1 - smoothing) * np.eye(K)[targets]
    ours = masked_tokens.cross_entropy(jnp.asarray(logits), jnp.asarray(targets), smoothing=smoothing)
    np.testing.assert_allclose(ours, -(q * np.log(p)).sum(-1), rtol=1e-5)


def test_pooled_mean():
    values, mask = jnp.arange(6.0).reshape(2, 3), jnp.array([[1, 0, 0], [1, 1, 1]], bool)
    pooled = masked_tokens.pooled_mean(values, mask, mask)
    assert pooled.shape == (2,) and jnp.mean(pooled) == pytest.approx((0 + 3 + 4 + 5) / 4)
    weighted = masked_tokens.pooled_mean(values, *(masked_tokens.loss_weights(mask, 0.1),) * 2)
    assert jnp.mean(weighted) == pytest.approx((0 + 3 + 4 + 5 + 0.1 * (1 + 2)) / 4.2)
