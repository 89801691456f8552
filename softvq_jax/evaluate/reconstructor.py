"""Reconstructs 8-bit images with a tokenizer."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.evaluate.devices import DeviceFunction, LocalDevices, Rows
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.pixels import from_uint8, to_uint8
from softvq_jax.weights import tokenizer_kinds


class Reconstructor:
    """Computes reconstructions, latents and codes on all devices of this process.

    Attributes:
      config: config of the tokenizer.
    """

    def __init__(self, config: TokenizerConfig, params: Mapping, *, devices: LocalDevices | None = None):
        net = tokenizer_kinds.network(config)
        self.config = config

        def apply(params, images):
            model = net(params)
            z = model.pre_bottleneck(from_uint8(images))
            latents = model.bottleneck.encode(z)
            rows = {"images": jnp.clip(model.decode(latents), -1, 1), "latents": latents}
            return rows | ({"codes": model.bottleneck(z).indices} if config.has_codebook else {})

        self._apply = DeviceFunction(jax.jit(apply), params, devices)

    def load(self, params: Mapping) -> None:
        """Replaces the weights by new ones of the same shapes, without compiling again."""
        self._apply.load(params)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the weights."""
        return self._apply.fingerprint

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, Rows]:
        """Returns reconstructions of images, with their latents and codes.

        Args:
          images: uint8 `[n, S, S, 3]`.

        Returns:
          Reconstructions, uint8 `[n, S, S, 3]`, rounded; and rows `latents` float32 `[n, L, D]` and, with a codebook,
          `codes` int32 `[n, C, L/C]` (the most probable codes for SoftVQ).

        Raises:
          ValueError: the images do not have the tokenizer's image size.
        """
        side = self.config.image_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images of shape {images.shape}; this tokenizer expects [n, {side}, {side}, 3]")
        rows = self._apply(images)
        return to_uint8(np.asarray(rows.pop("images"))), rows
