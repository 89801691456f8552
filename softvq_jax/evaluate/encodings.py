"""Encodes images with a tokenizer and returns the input and the output of its bottleneck."""

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.evaluate.devices import DeviceFunction, LocalDevices, Rows
from softvq_jax.pixels import from_uint8
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import tokenizer_kinds


class Encodings:
    """Computes the input and the output of the bottleneck on all devices of this process."""

    def __init__(self, tokenizer: Tokenizer, *, devices: LocalDevices | None = None):
        config = tokenizer.config
        net = tokenizer_kinds.network(config)

        def apply(params, images):
            model = net(params)
            z = model.pre_bottleneck(from_uint8(images))
            # KL's other channels are log-variances.
            rows = {"before": z[..., : config.latent_dim], "after": model.bottleneck.encode(z)}
            if config.has_codebook and (codes := model.bottleneck(z).indices) is not None:
                rows["codes"] = codes
            log_p = model.bottleneck.log_posterior(z)
            return rows if log_p is None else rows | posterior_rows(log_p)

        self._apply = DeviceFunction(jax.jit(apply), tokenizer.params, devices)

    def __call__(self, images: np.ndarray) -> Rows:
        """Encodes images, uint8 `[n, S, S, 3]`.

        Returns:
          `before` and `after` the bottleneck, float32 `[n, L, D]`; with a codebook, `codes`, int32 `[n, C, L/C]`; for
          SoftVQ, `posterior_entropy` `[n]` in nats and `max_probability` `[n]`, means over the tokens.
        """
        return self._apply(images)


def posterior_rows(log_p: jax.Array) -> dict[str, jax.Array]:
    """Returns entropy and largest probability of posteriors `[C, n, L/C, K]`, as means over the tokens of each image."""
    p = jnp.exp(log_p)
    return {
        "posterior_entropy": -jnp.mean(jnp.sum(p * log_p, -1), axis=(0, 2)),
        "max_probability": jnp.mean(jnp.max(p, -1), axis=(0, 2)),
    }
