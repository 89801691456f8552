"""LPIPS as a metric: between 8-bit images, on all devices of this process."""

from collections.abc import Mapping

import jax
import numpy as np

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.models.functional import Functional
from softvq_jax.pixels import from_uint8
from softvq_jax.weights import fingerprints


class PerceptualDistance:
    """LPIPS-VGG of pairs of images.

    Attributes:
      fingerprint: of the network's weights.
    """

    def __init__(self, net: Functional, params: Mapping, *, devices: LocalDevices | None = None):
        self._devices = devices or LocalDevices()
        self._params = self._devices.copy(params)
        self.fingerprint = fingerprints.of_weights(params)
        self._apply = jax.jit(lambda params, a, b: {"lpips": net(params)(from_uint8(a), from_uint8(b))})

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """`[n]` float32 for uint8 `[n, H, W, 3]` twice."""
        return self._devices.map(lambda a, b: self._apply(self._params, a, b), a, b)["lpips"]
