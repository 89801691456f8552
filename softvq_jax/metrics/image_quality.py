"""Pixel metrics of reconstructions: PSNR and SSIM of 8-bit images by scikit-image, in float64 on the host."""

import concurrent.futures
import functools
import os
from collections.abc import Callable

import numpy as np
from skimage import metrics


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio, `10 log10(255^2 / mean (a - b)^2)`, of each pair of images.

    Args:
      a, b: uint8 `[B, H, W, C]`.

    Returns:
      `[B]` float64 in dB; infinite if the two images are equal.

    Raises:
      ValueError: `a` and `b` are not batches of 8-bit images of one shape.
    """
    _check_pairs(a, b)
    with np.errstate(divide="ignore"):
        return np.array([metrics.peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)])


WINDOWS = {
    "gauss": (11, {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
    "uniform7": (7, {}),
}
"""The windows of SSIM: side in pixels, and scikit-image's options."""


def ssim(a: np.ndarray, b: np.ndarray, window: str = "gauss", data_range: float = 255) -> np.ndarray:
    """Returns the structural similarity (Wang et al., 2004, eq. 13), averaged over positions and channels.

    Only windows inside the image count.

    Args:
      a, b: uint8 `[B, H, W, C]`, with no side shorter than the window.
      window: "gauss" is the paper's window, 11 x 11 with sigma 1.5 and population covariance; "uniform7" is scikit-image's
        default, a 7 x 7 box with sample covariance.
      data_range: range of pixel values in the stabilizing constants. 255 on 8-bit images equals 1 on images in [0, 1];
        510 gives the same numbers as code that uses 2 on images in [0, 1], such as SoftVQ's release.

    Returns:
      `[B]` float64.

    Raises:
      ValueError: the window is unknown, or `a` and `b` are not batches of 8-bit images of one shape.
    """
    if window not in WINDOWS:
        raise ValueError(f"window is {window!r}; expected one of {', '.join(WINDOWS)}")
    side, options = WINDOWS[window]
    _check_pairs(a, b)
    height, width = a.shape[1:3]
    if min(height, width) < side:
        raise ValueError(f"images of {height} x {width} pixels; SSIM's window needs {side} each way")
    similarity = functools.partial(metrics.structural_similarity, channel_axis=-1, data_range=data_range, **options)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # scikit-image's filters release the GIL
        return np.array(list(pool.map(similarity, a, b)))


PAIR_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "psnr": psnr,
    "ssim_gauss": ssim,
    "ssim_uniform7": functools.partial(ssim, window="uniform7"),
    # The SSIM of the released code, which uses a data range of 2 on images in [0, 1].
    "ssim_uniform7_range2": functools.partial(ssim, window="uniform7", data_range=2 * 255),
}
"""Metrics of pairs, `(originals, images) -> [B]`, by their keys in `evaluation.json`."""


def _check_pairs(a, b):
    """Raises ValueError if two batches are not 8-bit images of one shape."""
    for name, images in (("a", a), ("b", b)):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"{name} is {images.dtype} of shape {images.shape}; expected uint8 [B, H, W, C]: "
                "softvq_jax.pixels.to_uint8 converts images in [-1, 1]"
            )
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; expected the same number of images of one size")
