"""Pretrained networks that evaluations use: Inception features of images, LPIPS of pairs of images."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from softvq_jax.evaluate.devices import DeviceFunction, LocalDevices, Rows
from softvq_jax.models.functional import Functional
from softvq_jax.pixels import as_float

FEATURES = ("f2048", "sfid", "logits_unbiased")
"""The features of `models.inception.FEATURES` that our metrics use."""


class FeatureExtractor:
    """Computes Inception features on all devices of this process.

    Args:
      net, params: from `weights.inception.load_inception`.
      names: names of features in `models.inception.FEATURES`.
      devices: the devices to run on; all devices of this process by default.
    """

    def __init__(
        self, net: Functional, params: Mapping, names: Sequence[str] = FEATURES, *, devices: LocalDevices | None = None
    ):
        def extract(params, images):
            features = net(params)(images)
            return {name: features[name] for name in names}

        self._extract = DeviceFunction(jax.jit(extract), params, devices)
        self.fingerprint = self._extract.fingerprint
        """Fingerprint of the weights."""

    def __call__(self, images: np.ndarray) -> Rows:
        """Returns features of images uint8 `[n, H, W, 3]` by name, float32 `[n, width]`, for any n."""
        return self._extract(images)


class PerceptualDistance:
    """Computes LPIPS-VGG of pairs of images on all devices of this process."""

    def __init__(self, net: Functional, params: Mapping, *, devices: LocalDevices | None = None):
        distance = jax.jit(lambda params, a, b: {"lpips": net(params)(as_float(a), as_float(b))})
        self._distance = DeviceFunction(distance, params, devices)
        self.fingerprint = self._distance.fingerprint
        """Fingerprint of the weights."""

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Returns distances `[n]` float32 between images `a` and `b`, uint8 `[n, H, W, 3]` each."""
        return self._distance(a, b)["lpips"]
