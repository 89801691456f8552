"""LPIPS on VGG16 (Zhang et al., 2018, arXiv 1801.03924): a perceptual distance between images."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.parallel.mesh import constrain_batch

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (width, number) of VGG16's convolutions between pools
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
UNIT_EPS = 1e-10


class LPIPS(nnx.Module):
    """Weighted squared difference of unit-length features, summed over five layers of VGG16.

    Always in evaluation mode, without dropout. `dtype` is the type of the convolutions; the rest is float32.
    """

    def __init__(self, *, dtype=None, rngs: nnx.Rngs):
        inputs = 3
        for stage, (width, depth) in enumerate(STAGES, 1):
            for layer in range(1, depth + 1):
                setattr(self, f"conv{stage}_{layer}", nnx.Conv(inputs, width, (3, 3), dtype=dtype, rngs=rngs))
                inputs = width
            setattr(self, f"head{stage}", nnx.Param(jnp.full((width,), 1 / width)))

    def features(self, images: jax.Array) -> list[jax.Array]:
        """Returns activations after relu1_2, 2_2, 3_3, 4_3 and 5_3 for images `[B, H, W, 3]` in [-1, 1]."""
        x = (images - SHIFT) / SCALE
        taps = []
        for stage, (_, depth) in enumerate(STAGES, 1):
            x = _max_pool(x) if stage > 1 else x
            for layer in range(1, depth + 1):
                x = constrain_batch(jax.nn.relu(getattr(self, f"conv{stage}_{layer}")(x)))
            taps.append(x)
        return taps

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Returns distances `[B]` float32 between images `[B, H, W, 3]` in [-1, 1] (equation 1).

        The two images pass through the trunk separately: if only one depends on the parameters, only its pass is
        differentiated.
        """
        distance = jnp.zeros(a.shape[0], jnp.float32)
        for stage, (x, y) in enumerate(zip(self.features(a), self.features(b), strict=True), 1):
            difference = jnp.square(_unit(x) - _unit(y))
            weighted = jnp.sum(difference * getattr(self, f"head{stage}")[...], axis=-1)
            distance += jnp.mean(weighted, axis=(1, 2))
        return distance


def _max_pool(x):
    """2 x 2 max pool that drops an odd last row or column; on CPUs, slices have a much faster gradient than a window."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def _unit(x):
    """Normalizes over channels as LPIPS does, with a finite gradient where all channels are 0."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    some = squares > 0
    length = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0)
    return x / (length + UNIT_EPS)
