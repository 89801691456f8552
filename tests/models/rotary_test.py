"""Mixed rotary positions against complex numbers in float64."""

import jax
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.rotary import fresh_frequencies, patch_coordinates, rotate

GRID, HEADS, DIM = 5, 3, 8
RNG = np.random.default_rng(0)
FREQUENCIES = RNG.standard_normal((2, HEADS * DIM // 2)).astype(np.float32)


def test_rotates_pairs_as_complex_numbers():
    """SPEC: the angle is `column * freqs[0] + row * freqs[1]`, the last axis of `freqs` head-major."""
    x = RNG.standard_normal((2, 1 + GRID**2 + 2, HEADS, DIM)).astype(np.float32)
    ours = jax.jit(rotate)(x, patch_coordinates(GRID, 1, 2), FREQUENCIES)
    pairs = x.astype(np.float64).reshape(*x.shape[:-1], DIM // 2, 2)
    numbers = pairs[..., 0] + 1j * pairs[..., 1]
    of_heads = FREQUENCIES.astype(np.float64).reshape(2, HEADS, DIM // 2)
    for patch in range(GRID**2):
        numbers[:, 1 + patch] *= np.exp(1j * (patch % GRID * of_heads[0] + patch // GRID * of_heads[1]))
    theirs = np.stack([numbers.real, numbers.imag], axis=-1).reshape(x.shape)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for prefix_or_suffix in (slice(0, 1), slice(1 + GRID**2, None)):
        np.testing.assert_array_equal(ours[:, prefix_or_suffix], x[:, prefix_or_suffix])


def test_products_depend_on_relative_positions_only():
    q, k = (np.broadcast_to(RNG.standard_normal((HEADS, DIM)), (1, GRID**2, HEADS, DIM)) for _ in range(2))
    coordinates = patch_coordinates(GRID)
    turned = [np.float64(rotate(np.float32(x), coordinates, FREQUENCIES)) for x in (q, k)]
    products = np.einsum("bihd,bjhd->hij", *turned).reshape(HEADS, GRID, GRID, GRID, GRID)
    np.testing.assert_allclose(products[:, 1:, 1:, 1:, 1:], products[:, :-1, :-1, :-1, :-1], atol=1e-4)


def test_fresh_frequencies():
    """Per head one direction; half of the pairs turn along it, half across, at the same rates."""
    frequencies = np.asarray(fresh_frequencies(HEADS, DIM, 10.0, nnx.Rngs(0))).reshape(2, HEADS, 2, DIM // 4)
    rates = [1.0, 10.0 ** (-4 / DIM)]
    np.testing.assert_allclose(np.linalg.norm(frequencies, axis=0), np.broadcast_to(rates, (HEADS, 2, 2)), rtol=1e-6)
    along, across = frequencies[:, :, 0], frequencies[:, :, 1]
    np.testing.assert_allclose(np.sum(along * across, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(along[0] * across[1] - along[1] * across[0], np.broadcast_to(np.square(rates), (3, 2)))
    angles = np.arctan2(along[1], along[0])
    np.testing.assert_allclose(angles[:, 0], angles[:, 1], atol=1e-5)
    assert len(set(angles[:, 0])) == HEADS


def test_refuses_heads_that_have_no_pairs_for_both_directions():
    with pytest.raises(ValueError, match="heads have 6 channels; rotary positions need a multiple of 4"):
        fresh_frequencies(HEADS, 6, 10.0, nnx.Rngs(0))
