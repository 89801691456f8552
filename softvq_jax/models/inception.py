"""The Inception-v3 published on 2015-12-05, the feature network of FID, sFID, IS, KID, precision and recall.

It differs from the Inception-v3 of later papers: average pools do not count the padding, the last block uses a max pool,
and there are 1,008 classes. Evaluation only, in float32 with full matmul precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

INPUT_SIZE = 299
BATCH_NORM_EPS = 1e-3
SPATIAL_CHANNELS = 7  # channels of mixed_6/conv that sFID uses

FEATURES = {"f64": 64, "f192": 192, "f768": 768, "f2048": 2048, "logits_unbiased": 1008, "sfid": 17 * 17 * 7}


class Conv(nnx.Module):
    """Convolution without bias, batch norm with running statistics, ReLU. Strided convolutions are not padded."""

    def __init__(
        self, inputs: int, outputs: int, size: int | tuple[int, int], stride=1, padding=None, by_rows=None, *, rngs
    ):
        height, width = (size, size) if isinstance(size, int) else size
        self.stride, self.padding = stride, padding or ("SAME" if stride == 1 else "VALID")
        self.by_rows = self.padding == "VALID" if by_rows is None else by_rows
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (height, width, inputs, outputs), jnp.float32))
        self.scale, self.var = nnx.Param(jnp.ones(outputs)), nnx.Param(jnp.ones(outputs))
        self.bias, self.mean = nnx.Param(jnp.zeros(outputs)), nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        # The norm is folded into the kernel here and not at loading, so that parameters match the published file.
        gain = self.scale[...] * jax.lax.rsqrt(self.var[...] + BATCH_NORM_EPS)
        return jax.nn.relu(self._convolve(x, self.kernel[...] * gain) + (self.bias[...] - self.mean[...] * gain))

    def _convolve(self, x, kernel):
        if kernel.shape[:2] == (1, 1):
            # On CPUs twice as fast as the equivalent convolution.
            return jnp.matmul(x, kernel[0, 0], precision=jax.lax.Precision.HIGHEST)
        by_library = functools.partial(_convolution, stride=self.stride, padding=self.padding)
        if not self.by_rows:
            return by_library(x, kernel)
        by_rows = functools.partial(_sum_of_row_products, stride=self.stride, padding=self.padding)
        return jax.lax.platform_dependent(x, kernel, cpu=by_rows, default=by_library)


def _convolution(x, kernel, *, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def _sum_of_row_products(x, kernel, *, stride, padding):
    """Computes `_convolution` for kernels with odd sides, by one matmul for each row of the kernel.

    On large images and with strides, XLA's convolution reaches an eighth to a third of a CPU's matmul rate; this one
    reaches two thirds if the image stays in the cache.
    """
    size, width = kernel.shape[:2]
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (width // 2, width // 2), (0, 0)))
    rows, columns = ((length - size) // stride + 1 for length, size in zip(x.shape[1:3], (size, width), strict=True))
    shifted = [x[:, :, j : j + stride * (columns - 1) + 1 : stride] for j in range(width)]
    wide = jnp.concatenate(shifted, axis=-1)
    kernel = kernel.reshape(size, -1, kernel.shape[-1])
    products = (
        jnp.matmul(wide[:, i : i + stride * (rows - 1) + 1 : stride], kernel[i], precision=jax.lax.Precision.HIGHEST)
        for i in range(size)
    )
    return functools.reduce(jnp.add, products)


def _image_by_image(function, images):
    """Applies `function` to a batch of images; on CPUs one at a time, so that an image's activations stay in the cache."""

    def one_by_one(images):
        return jax.tree.map(lambda result: result[:, 0], jax.lax.map(function, images[:, None]))

    return jax.lax.platform_dependent(images, cpu=one_by_one, default=function)


def _chain(x, *convs):
    for conv in convs:
        x = conv(x)
    return x


def _max_pool(x, stride: int = 2):
    """3 x 3 max pool without padding. Maxima of slices are several times as fast on CPUs as a window reduction."""
    for axis in (1, 2):
        count = (x.shape[axis] - 3) // stride + 1
        x = functools.reduce(jnp.maximum, _shifted(x, axis, count, stride))
    return x


def _average_pool(x):
    """3 x 3 average pool that counts only positions inside the image."""

    def sums(x):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        for axis in (1, 2):
            x = functools.reduce(jnp.add, _shifted(x, axis, x.shape[axis] - 2, 1))
        return x

    return sums(x) / sums(jnp.ones((1, *x.shape[1:3], 1)))


def _shifted(x, axis, count, stride):
    """Returns three slices along `axis`: `count` elements, `stride` apart, starting at positions 0, 1 and 2."""
    end = stride * (count - 1) + 1
    return [jax.lax.slice_in_dim(x, first, first + end, stride, axis) for first in range(3)]


def _concatenate(*branches):
    return jnp.concatenate(branches, axis=-1)


class Mixed5(nnx.Module):
    """Figure 5 of "Rethinking the Inception architecture" (Szegedy et al., 2015), 35 x 35."""

    def __init__(self, inputs: int, pool: int, *, rngs: nnx.Rngs):
        self.branch1x1 = Conv(inputs, 64, 1, rngs=rngs)
        self.branch5x5_1 = Conv(inputs, 48, 1, rngs=rngs)
        self.branch5x5_2 = Conv(48, 64, 5, rngs=rngs)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1, rngs=rngs)
        self.branch3x3dbl_2 = Conv(64, 96, 3, rngs=rngs)
        self.branch3x3dbl_3 = Conv(96, 96, 3, rngs=rngs)
        self.branch_pool = Conv(inputs, pool, 1, rngs=rngs)

    def __call__(self, x):
        return _concatenate(
            self.branch1x1(x),
            _chain(x, self.branch5x5_1, self.branch5x5_2),
            _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            self.branch_pool(_average_pool(x)),
        )


class Mixed6a(nnx.Module):
    """Figure 10: 35 x 35 to 17 x 17."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.branch3x3 = Conv(288, 384, 3, stride=2, rngs=rngs)
        self.branch3x3dbl_1 = Conv(288, 64, 1, rngs=rngs)
        self.branch3x3dbl_2 = Conv(64, 96, 3, rngs=rngs)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, rngs=rngs)

    def __call__(self, x):
        double = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        return _concatenate(self.branch3x3(x), double, _max_pool(x))


class Mixed6(nnx.Module):
    """Figure 6 with n = 7, 17 x 17; `width` is the number of channels of the factorized convolutions."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(768, 192, 1, rngs=rngs)
        self.branch7x7_1 = Conv(768, width, 1, rngs=rngs)
        self.branch7x7_2 = Conv(width, width, row, rngs=rngs)
        self.branch7x7_3 = Conv(width, 192, column, rngs=rngs)
        self.branch7x7dbl_1 = Conv(768, width, 1, rngs=rngs)
        self.branch7x7dbl_2 = Conv(width, width, column, rngs=rngs)
        self.branch7x7dbl_3 = Conv(width, width, row, rngs=rngs)
        self.branch7x7dbl_4 = Conv(width, width, column, rngs=rngs)
        self.branch7x7dbl_5 = Conv(width, 192, row, rngs=rngs)
        self.branch_pool = Conv(768, 192, 1, rngs=rngs)

    def __call__(self, x):
        double = (
            self.branch7x7dbl_1,
            self.branch7x7dbl_2,
            self.branch7x7dbl_3,
            self.branch7x7dbl_4,
            self.branch7x7dbl_5,
        )
        return _concatenate(
            self.branch1x1(x),
            _chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
            _chain(x, *double),
            self.branch_pool(_average_pool(x)),
        )


class Mixed7a(nnx.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.branch3x3_1 = Conv(768, 192, 1, rngs=rngs)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2, rngs=rngs)
        self.branch7x7x3_1 = Conv(768, 192, 1, rngs=rngs)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), rngs=rngs)
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), rngs=rngs)
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2, rngs=rngs)

    def __call__(self, x):
        seven = _chain(x, self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4)
        return _concatenate(_chain(x, self.branch3x3_1, self.branch3x3_2), seven, _max_pool(x))


class Mixed7(nnx.Module):
    """Figure 7, 8 x 8; the pool is an average in the first of the two blocks and a maximum in the second."""

    def __init__(self, inputs: int, pool, *, rngs: nnx.Rngs):
        row, column = (1, 3), (3, 1)
        self.pool = pool
        self.branch1x1 = Conv(inputs, 320, 1, rngs=rngs)
        self.branch3x3_1 = Conv(inputs, 384, 1, rngs=rngs)
        self.branch3x3_2a = Conv(384, 384, row, rngs=rngs)
        self.branch3x3_2b = Conv(384, 384, column, rngs=rngs)
        self.branch3x3dbl_1 = Conv(inputs, 448, 1, rngs=rngs)
        self.branch3x3dbl_2 = Conv(448, 384, 3, rngs=rngs)
        self.branch3x3dbl_3a = Conv(384, 384, row, rngs=rngs)
        self.branch3x3dbl_3b = Conv(384, 384, column, rngs=rngs)
        self.branch_pool = Conv(inputs, 192, 1, rngs=rngs)

    def __call__(self, x):
        single = self.branch3x3_1(x)
        double = _chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        return _concatenate(
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        )


def _same_max_pool(x):
    return _max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf), stride=1)


class Inception(nnx.Module):
    """Computes all features that metrics use from 8-bit images of any size; jit drops those that are not used."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, rngs=rngs)
        self.conv2d_2a_3x3 = Conv(32, 32, 3, padding="VALID", rngs=rngs)
        self.conv2d_2b_3x3 = Conv(32, 64, 3, by_rows=True, rngs=rngs)
        self.conv2d_3b_1x1 = Conv(64, 80, 1, rngs=rngs)
        self.conv2d_4a_3x3 = Conv(80, 192, 3, padding="VALID", rngs=rngs)
        self.mixed_5b = Mixed5(192, 32, rngs=rngs)
        self.mixed_5c = Mixed5(256, 64, rngs=rngs)
        self.mixed_5d = Mixed5(288, 64, rngs=rngs)
        self.mixed_6a = Mixed6a(rngs=rngs)
        self.mixed_6b = Mixed6(128, rngs=rngs)
        self.mixed_6c = Mixed6(160, rngs=rngs)
        self.mixed_6d = Mixed6(160, rngs=rngs)
        self.mixed_6e = Mixed6(192, rngs=rngs)
        self.mixed_7a = Mixed7a(rngs=rngs)
        self.mixed_7b = Mixed7(1280, _average_pool, rngs=rngs)
        self.mixed_7c = Mixed7(2048, _same_max_pool, rngs=rngs)
        self.fc = nnx.Linear(2048, 1008, precision=jax.lax.Precision.HIGHEST, rngs=rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns the features of 8-bit images.

        Args:
          images: uint8 `[B, H, W, 3]`.

        Returns:
          Float32 `[B, n]` by name, with the widths in `FEATURES`: `f64` and `f192` are the spatial means after the first
          and second max pool, `f768` after mixed_6e, `f2048` (pool3) after mixed_7c; `logits_unbiased` are the logits
          without the classifier's bias (Inception score); `sfid` are the first 7 channels of mixed_6d's 1x1 branch at
          all 17 x 17 positions (spatial FID; Nash et al., 2021).

        Raises:
          ValueError: the images are not uint8 RGB.
        """
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {images.dtype} of shape {images.shape}; Inception takes uint8 [B, H, W, 3]")
        f64, f192 = _image_by_image(self._stem, images)
        x = _chain(f192, self.mixed_5b, self.mixed_5c, self.mixed_5d, self.mixed_6a, self.mixed_6b, self.mixed_6c)
        x = self.mixed_6d(x)
        spatial = x[..., :SPATIAL_CHANNELS]  # the 1x1 branch comes first in the block
        x = f768 = self.mixed_6e(x)
        x = _chain(x, self.mixed_7a, self.mixed_7b, self.mixed_7c)
        pooled = {name: y.mean(axis=(1, 2)) for name, y in (("f192", f192), ("f768", f768), ("f2048", x))}
        logits = self.fc(pooled["f2048"]) - self.fc.bias[...]  # pyright: ignore[reportOptionalSubscript] (it has a bias)
        return {"f64": f64, **pooled, "logits_unbiased": logits, "sfid": spatial.reshape(len(images), -1)}

    def _stem(self, images):
        """Runs the layers before the first mixed block; returns the means after the first pool, and the output."""
        x = (tf1_bilinear_resize(images.astype(jnp.float32), INPUT_SIZE) - 128) / 128
        x = _max_pool(_chain(x, self.conv2d_1a_3x3, self.conv2d_2a_3x3, self.conv2d_2b_3x3))
        return x.mean(axis=(1, 2)), _max_pool(_chain(x, self.conv2d_3b_1x1, self.conv2d_4a_3x3))


def tf1_bilinear_resize(images: jax.Array, size: int) -> jax.Array:
    """TensorFlow 1's `resize_bilinear`: output pixel i reads input position `i * in / out`, with no half-pixel offset.

    Neither antialiased nor centered, as in the original Inception graph. Published FIDs depend on it.

    Args:
      images: float32 `[B, H, W, C]`.

    Returns:
      `[B, size, size, C]`.
    """
    for axis in (1, 2):
        low, high, weight = _tf1_neighbors(images.shape[axis], size)
        weight = weight.reshape(-1, 1, 1) if axis == 1 else weight.reshape(-1, 1)
        images = images.take(low, axis) * (1 - weight) + images.take(high, axis) * weight
    return images


def _tf1_neighbors(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two input positions around each output position, and the weight of the second: `[outputs]` each."""
    # Positions in float32, as TensorFlow computes them.
    position = np.arange(outputs, dtype=np.float32) * (np.float32(inputs) / np.float32(outputs))
    low = np.minimum(position.astype(int), inputs - 1)
    return low, np.minimum(low + 1, inputs - 1), position - low.astype(np.float32)
