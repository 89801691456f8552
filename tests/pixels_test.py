"""8-bit images and floats: one arithmetic for NumPy and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax import pixels

LEVELS = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_all_levels_round_trip(array):
    floats = pixels.from_uint8(array(LEVELS))
    assert isinstance(floats, type(array(LEVELS))) and floats.dtype == np.float32
    np.testing.assert_allclose(floats, LEVELS / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(pixels.to_uint8(floats), LEVELS)
    np.testing.assert_array_equal(pixels.to_uint8(floats[:-1] + np.float32(0.4 / 127.5)), LEVELS[:-1])
    np.testing.assert_array_equal(pixels.to_uint8(floats[:-1] + np.float32(0.6 / 127.5)), LEVELS[1:])


def test_numpy_and_compiled_jax_agree_on_halves_and_beyond_the_range():
    floats = np.float32([-3, -1, -1 + 0.5 / 127.5, -1 + 1.5 / 127.5, 0, 0.999, 1, 7])
    np.testing.assert_array_equal(pixels.to_uint8(floats), jax.jit(pixels.to_uint8)(floats))
    np.testing.assert_array_equal(pixels.to_uint8(floats)[[0, 1, 4, 6, 7]], [0, 0, 128, 255, 255])


def test_floats_stay_as_they_are():
    floats = np.float32([0.25])
    assert pixels.as_float(floats) is floats
    np.testing.assert_array_equal(pixels.as_float(LEVELS), pixels.from_uint8(LEVELS))


@pytest.mark.parametrize(("images", "message"), [(LEVELS, "images are uint8"), (np.float32([np.nan]), "1 of 1 pixel")])
def test_values_without_a_level_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        pixels.to_uint8(images)
