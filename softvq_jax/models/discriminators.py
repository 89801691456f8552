"""Discriminators: small heads on a frozen DINO (StyleGAN-T, arXiv 2301.09515), and PatchGAN (arXiv 1611.07004).

Both are called as `discriminator(inputs, train=...)` and return logits in float32. PatchGAN takes images, the DINO
discriminator takes features of the frozen DINO. A training-mode forward pass updates buffers (BatchNorm's running
statistics, spectral norm's singular vectors), which are variables other than `nnx.Param`:

    discriminator = nnx.merge(graphdef, params, buffers)
    logits = discriminator(inputs, train=True)
    buffers = nnx.to_pure_dict(nnx.state(discriminator, nnx.Not(nnx.Param)))
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.dino_trunk import NUM_FEATURES
from softvq_jax.models.resize import area_resize, bicubic_resize
from softvq_jax.parallel.mesh import constrain_batch

MOMENTUM = 0.9  # share of the running statistics that is kept: PyTorch's momentum is 1 - 0.9 = 0.1
# Uniform within 1/sqrt(fan_in), as PyTorch initializes convolutions.
_conv_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class SpectralVector(nnx.Variable):
    """A singular vector that spectral norm updates at each step."""


class BatchNorm(nnx.Module):
    """Batch normalization over all axes but the last, of the global batch, in float32.

    Our own for PyTorch's semantics: the running variance is the unbiased one."""

    def __init__(self, width: int, epsilon: float):
        self.epsilon = epsilon
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(jnp.float32)
        mean, var = self.mean[...], self.var[...]
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes)
            var = jax.checkpoint(lambda x, mean: jnp.mean(jnp.square(x - mean), axes))(x, mean)  # keeps x, not x - mean
            count = x.size // x.shape[-1]
            self._update(self.mean, mean)
            self._update(self.var, var * (count / max(count - 1, 1)))
        return _normalize(x, mean, jax.lax.rsqrt(var + self.epsilon) * self.scale[...], self.bias[...])

    def _update(self, running, value):
        running[...] = MOMENTUM * running[...] + (1 - MOMENTUM) * jax.lax.stop_gradient(value)


@jax.checkpoint  # keeps x, not x - mean
def _normalize(x, mean, scale, bias):
    return (x - mean) * scale + bias


class SpectralConv1d(nnx.Module):
    """Circular 1-D convolution, `[B, T, in] -> [B, T, out]`, with its kernel divided by its largest singular value.

    Spectral norm as in PyTorch: one power iteration in each training-mode forward pass (Miyato et al., 2018, arXiv
    1802.05957, algorithm 1).

    If BatchNorm follows, it cancels the bias, and the gradient of the bias is only rounding error, which Adam would
    scale to full steps. `learn_bias=False` keeps the bias fixed.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        learn_bias: bool = True,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, in_features, out_features)
        bound = 1 / math.sqrt(kernel_size * in_features)
        self.learn_bias, self.dtype = learn_bias, dtype
        self.kernel = nnx.Param(_conv_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (out_features,), minval=-bound, maxval=bound))
        self.u = SpectralVector(_unit(jax.random.normal(rngs.params(), shape[2:])))
        self.v = SpectralVector(_unit(jax.random.normal(rngs.params(), shape[:2])))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.bias[...] if self.learn_bias else jax.lax.stop_gradient(self.bias[...])
        bias, x = (array.astype(self.dtype or jnp.float32) for array in (bias, x))
        return constrain_batch(_convolve(x, self.kernel[...], self._singular_value(train)) + bias)

    def _singular_value(self, train):
        kernel, u, v = self.kernel[...], self.u[...], self.v[...]
        exact = jax.lax.Precision.HIGHEST
        if train:
            fixed = jax.lax.stop_gradient(kernel)
            v = _unit(jnp.einsum("kio,o->ki", fixed, u, precision=exact))
            u = _unit(jnp.einsum("kio,ki->o", fixed, v, precision=exact))
            self.u[...], self.v[...] = u, v
        return jnp.vdot(u, jnp.einsum("kio,ki->o", kernel, v, precision=exact), precision=exact)


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


@jax.checkpoint
def _convolve(x, kernel, sigma):
    """The backward pass makes the windows and the normalized kernel again; kept for each view, they are 308 of the 440 MiB
    that the heads keep of 4 images."""
    windows = constrain_batch(_circular_windows(x, kernel.shape[0]))
    return windows @ (kernel / sigma).astype(x.dtype).reshape(-1, kernel.shape[-1])


def _circular_windows(x, size):
    """Gathers each position with its neighbors, `[B, T, C] -> [B, T, size * C]`, so that a convolution is one matmul.

    Each head has its own kernel, and a batch of matmuls takes half the time of a grouped convolution (forward and
    backward, on a CPU).
    """
    if size == 1:
        return x
    length, reach = x.shape[1], size // 2
    around = jnp.concatenate([x[:, -reach:], x, x[:, :reach]], axis=1)
    return jnp.concatenate([around[:, i : i + length] for i in range(size)], axis=-1)


class SpectralBlock(nnx.Module):
    """Spectral-norm convolution, BatchNorm, LeakyReLU with slope 0.2; keeps the width."""

    def __init__(self, width: int, kernel_size: int, *, dtype=None, rngs: nnx.Rngs):
        self.conv = SpectralConv1d(width, width, kernel_size, learn_bias=False, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(width, epsilon=1e-6)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return jax.nn.leaky_relu(self.norm(self.conv(x, train=train), train=train), 0.2)


class Head(nnx.Module):
    """Computes logits `[B, N]` of the tokens `[B, N, width]` of one feature map."""

    def __init__(self, width: int, *, dtype=None, rngs: nnx.Rngs):
        self.pointwise = SpectralBlock(width, 1, dtype=dtype, rngs=rngs)
        self.circular = SpectralBlock(width, 9, dtype=dtype, rngs=rngs)
        self.logit = SpectralConv1d(width, 1, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.pointwise(x, train=train)
        x = (self.circular(x, train=train) + x) / math.sqrt(2)
        return self.logit(x, train=train)[..., 0].astype(jnp.float32)


class DinoDiscriminator(nnx.Module):
    """The trained part of the DINO discriminator: one head for each of the trunk's five feature maps, stacked."""

    def __init__(self, width: int = 384, *, dtype=None, rngs: nnx.Rngs):
        self.heads = layers.stack(lambda r: Head(width, dtype=dtype, rngs=r), NUM_FEATURES, rngs)

    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits `[B, 5 * N]`, one for each token of each feature map.

        Args:
          features: `[5, B, N, width]`, from a `DinoTrunk`.
          train: normalize by the statistics of this batch, and update the buffers.
        """
        graphdef, params, buffers = nnx.split(self.heads, nnx.Param, ...)

        def apply(params, buffers, tokens):
            head = nnx.merge(graphdef, params, buffers)
            return head(tokens, train=train), nnx.state(head, nnx.Not(nnx.Param))

        logits, buffers = jax.vmap(apply)(params, buffers, features)
        nnx.update(self.heads, buffers)
        return jnp.moveaxis(logits, 0, 1).reshape(features.shape[1], -1)


def fit(images: jax.Array, size: int, crop_key: jax.Array | None = None) -> jax.Array:
    """Resizes square images to `size`: enlarges bicubically, shrinks by area averages.

    With `crop_key`, larger images are cropped instead with probability 1/2. One draw decides for the whole batch, and
    all images are cropped at the same position.
    """
    if images.shape[1] == size:
        return images
    if images.shape[1] < size:
        return bicubic_resize(images, size)
    if crop_key is None:
        return area_resize(images, size)
    coin, place = jax.random.split(crop_key)
    return jax.lax.cond(
        jax.random.bernoulli(coin), lambda: random_crop(place, images, size), lambda: area_resize(images, size)
    )


def random_crop(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Crops the same random `[size, size]` window from every image."""
    batch, height, width, channels = images.shape
    limit = jnp.array([height - size + 1, width - size + 1])
    top, left = jax.random.randint(key, (2,), 0, limit)
    return jax.lax.dynamic_slice(images, (0, top, left, 0), (batch, size, size, channels))


class PatchGAN(nnx.Module):
    """The discriminator of pix2pix (Isola et al., 2017), which returns a logit for each of many overlapping patches.

    4 x 4 convolutions with padding 1: `num_layers` of stride 2, then two of stride 1. BatchNorm follows all except the
    first and the last convolution, which are the only ones with a bias.
    """

    def __init__(self, width: int = 64, num_layers: int = 3, *, dtype=None, rngs: nnx.Rngs):
        self.num_layers = num_layers
        widths = [width * min(2**i, 8) for i in range(num_layers + 1)]

        def conv(inputs, outputs, stride, use_bias):
            init = nnx.initializers.normal(0.02)
            return nnx.Conv(
                inputs, outputs, (4, 4), stride, padding=1, use_bias=use_bias, kernel_init=init, dtype=dtype, rngs=rngs
            )

        self.conv0 = conv(3, width, 2, True)
        for i in range(1, num_layers + 1):
            stride = 2 if i < num_layers else 1
            setattr(self, f"conv{i}", conv(widths[i - 1], widths[i], stride, False))
            setattr(self, f"norm{i}", BatchNorm(widths[i], epsilon=1e-5))
        self.logit = conv(widths[-1], 1, 1, True)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits `[B, h, w, 1]` of images `[B, H, W, 3]`."""
        x = constrain_batch(jax.nn.leaky_relu(self.conv0(images), 0.2))
        for i in range(1, self.num_layers + 1):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), train=train)
            x = constrain_batch(jax.nn.leaky_relu(x, 0.2))
        return self.logit(x).astype(jnp.float32)
