import jax.numpy as jnp
import numpy as np

from softvq_jax.losses.reconstruction import pixel_l2


def test_pixel_l2_is_the_mean_square_in_float32():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 4, 3))
    np.testing.assert_allclose(pixel_l2(jnp.asarray(a), jnp.asarray(b)), ((a - b) ** 2).mean(), rtol=1e-6)
    ones = jnp.ones((1, 64, 64, 3), jnp.bfloat16)
    assert pixel_l2(ones, ones - 1).dtype == jnp.float32
