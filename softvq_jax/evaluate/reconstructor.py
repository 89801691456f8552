"""A tokenizer at work on 8-bit images: what comes back, and what it was in between."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.evaluate.devices import LocalDevices, Rows
from softvq_jax.metrics.image_quality import to_uint8
from softvq_jax.models.functional import Functional
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.pixels import from_uint8
from softvq_jax.weights import fingerprints


class Reconstructor:
    """Images to reconstructions, latents and codes, on all devices of this process.

    Attributes:
      config: the tokenizer's.
      fingerprint: of its weights.
    """

    def __init__(self, config: TokenizerConfig, params: Mapping, *, devices: LocalDevices | None = None):
        net = Functional(lambda rngs: TokenizerModel(config, rngs=rngs))
        self.config, self._devices = config, devices or LocalDevices()
        self.load(params)

        def apply(params, images):
            model = net(params)
            z = model.pre_bottleneck(from_uint8(images))
            latents = model.bottleneck.encode(z)
            rows = {"images": jnp.clip(model.decode(latents), -1, 1), "latents": latents}
            return rows | ({"codes": model.bottleneck(z).indices} if config.has_codebook else {})

        self._apply = jax.jit(apply)

    def load(self, params: Mapping) -> None:
        """Takes other weights of the same tokenizer; nothing is compiled again."""
        self._params = self._devices.copy(params)
        self.fingerprint = fingerprints.of_weights(params)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, Rows]:
        """Reconstructions, and what to keep of each.

        Args:
          images: uint8 `[n, S, S, 3]`.

        Returns:
          uint8 `[n, S, S, 3]`, rounded; and `latents` `[n, L, D]` float32 with, where there is a codebook, `codes`
          `[n, C, L/C]` int32: for SoftVQ the most probable ones.

        Raises:
          ValueError: images of another size than the tokenizer takes.
        """
        side = self.config.image_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images of shape {images.shape}; this tokenizer takes [n, {side}, {side}, 3]")
        rows = self._devices.map(lambda batch: self._apply(self._params, batch), images)
        return to_uint8(rows.pop("images")), rows
