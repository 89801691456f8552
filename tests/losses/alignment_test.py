"""Alignment in its four modes, one patch and latent at a time in NumPy."""

import jax
import numpy as np
import pytest

from softvq_jax.losses import alignment

B, L, N, D, WIDTH = 2, 4, 12, 3, 5
RNG = np.random.default_rng(0)
LATENTS = RNG.standard_normal((B, L, D), np.float32)
PATCHES = RNG.standard_normal((B, N, WIDTH), np.float32)
HEAD = RNG.standard_normal((D, WIDTH), np.float32)
KEY = jax.random.key(3)


def head(latents):
    return np.tanh(latents @ HEAD)


def cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def loss(mode, key=None):
    projected = head(np.asarray(alignment.alignment_inputs(mode, LATENTS)))
    return alignment.alignment_loss(projected, alignment.alignment_targets(mode, PATCHES, L, key))


def mean_of(patches):
    """Means of `N/L` consecutive patches: `[L, WIDTH]`."""
    return [patches[i * N // L : (i + 1) * N // L].mean(0) for i in range(L)]


def test_repeat():
    """Latent i stands for patches `i*N/L ... (i+1)*N/L - 1`."""
    cosines = [cosine(head(LATENTS[b, j * L // N]), PATCHES[b, j]) for b in range(B) for j in range(N)]
    assert loss("repeat") == pytest.approx(-np.mean(cosines), rel=1e-5)


def test_global():
    """The mean comes before the head, which is not linear."""
    cosines = [cosine(head(LATENTS[b].mean(0)), PATCHES[b].mean(0)) for b in range(B)]
    assert loss("global") == pytest.approx(-np.mean(cosines), rel=1e-5)


def test_avg_1d():
    targets = [mean_of(PATCHES[b]) for b in range(B)]
    cosines = [cosine(head(LATENTS[b, i]), targets[b][i]) for b in range(B) for i in range(L)]
    assert loss("avg_1d") == pytest.approx(-np.mean(cosines), rel=1e-5)


def test_avg_1d_shuffle():
    """One order for the whole batch, drawn with the key."""
    order = np.asarray(alignment.alignment_targets("avg_1d_shuffle", np.eye(N, dtype=np.float32)[None], N, KEY))[0]
    assert (order.sum(0) == 1).all() and (order.sum(1) == 1).all() and (order != np.eye(N)).any()
    targets = [mean_of(order @ PATCHES[b]) for b in range(B)]
    cosines = [cosine(head(LATENTS[b, i]), targets[b][i]) for b in range(B) for i in range(L)]
    assert loss("avg_1d_shuffle", KEY) == pytest.approx(-np.mean(cosines), rel=1e-5)
    assert loss("avg_1d_shuffle", jax.random.key(4)) != loss("avg_1d_shuffle", KEY)


def test_extremes():
    targets = np.repeat(head(LATENTS), 3, axis=1)
    for scale, expected in ((2.0, -1.0), (-0.5, 1.0)):
        assert alignment.alignment_loss(scale * head(LATENTS), targets) == pytest.approx(expected, rel=1e-6)
    assert alignment.alignment_loss(np.zeros((B, L, WIDTH), np.float32), targets) == 0


def test_low_precision_is_compared_in_float32():
    half = jax.numpy.asarray(PATCHES, jax.numpy.bfloat16)
    result = alignment.alignment_loss(half, half)
    assert result.dtype == np.float32 and result == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("mode", ["repeat", "avg_1d", "avg_1d_shuffle"])
def test_patches_that_do_not_divide(mode):
    with pytest.raises(ValueError, match=rf"'{mode}'.*256 teacher patches are not divisible by 48 latent tokens"):
        alignment.check_alignment(mode, 48, 256)
    with pytest.raises(ValueError, match="not divisible by 512"):
        alignment.check_alignment(mode, 512, 256)
    alignment.check_alignment(mode, 64, 256)


def test_global_mode_allows_any_number_of_latents():
    alignment.check_alignment("global", 48, 256)


def test_unknown_mode():
    with pytest.raises(ValueError, match="'avg_2d'; expected one of repeat, global, avg_1d, avg_1d_shuffle"):
        alignment.check_alignment("avg_2d", 64, 256)
