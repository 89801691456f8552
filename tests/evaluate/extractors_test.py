import jax
import numpy as np
import pytest

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.extractors import PerceptualDistance
from softvq_jax.models.functional import functional
from softvq_jax.models.lpips import LPIPS


@pytest.mark.slow
def test_distances_of_8_bit_images_in_batches():
    net, rng = functional(LPIPS), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.05 * rng.standard_normal(leaf.shape, np.float32), net.shapes)
    a, b = rng.integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    a[1] = b[1]
    expected = net(params)(a / np.float32(127.5) - 1, b / np.float32(127.5) - 1)
    distances = PerceptualDistance(net, params, devices=LocalDevices(batch_size=2))(a, b)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    assert distances[1] == 0 and distances[0] != 0
