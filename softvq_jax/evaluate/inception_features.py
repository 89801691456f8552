"""What the Inception network sees in images."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from softvq_jax.evaluate.devices import LocalDevices, Rows
from softvq_jax.models.functional import Functional
from softvq_jax.weights import fingerprints

NAMES = ("f2048", "sfid", "logits_unbiased")


class FeatureExtractor:
    """Images to features, on all devices of this process.

    Attributes:
      fingerprint: of the network's weights.
    """

    def __init__(
        self, net: Functional, params: Mapping, names: Sequence[str] = NAMES, *, devices: LocalDevices | None = None
    ):
        """From `weights.inception.load_inception`; `names` are among those of `models.inception.FEATURES`."""
        self._devices = devices or LocalDevices()
        self._params = self._devices.copy(params)
        self.fingerprint = fingerprints.of_weights(params)

        def apply(params, images):
            features = net(params)(images)
            return {name: features[name] for name in names}

        self._apply = jax.jit(apply)

    def __call__(self, images: np.ndarray) -> Rows:
        """Features of uint8 `[n, H, W, 3]` by name, float32 `[n, width]`; n is any number."""
        return self._devices.map(lambda batch: self._apply(self._params, batch), images)
