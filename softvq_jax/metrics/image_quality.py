"""Pixel fidelity of reconstructions: PSNR and SSIM of 8-bit images, one value an image, in float64 on the host."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from softvq_jax import pixels


def to_uint8(images) -> np.ndarray:
    """`pixels.to_uint8` of anything that converts to a NumPy array."""
    return pixels.to_uint8(np.asarray(images))


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio, `10 log10(255^2 / mean (a - b)^2)`.

    Args:
      a, b: uint8 `[B, H, W, C]`.

    Returns:
      `[B]` float64 in dB; infinite where the two images are equal.

    Raises:
      ValueError: where the two are not batches of 8-bit images of one shape.
    """
    error = np.array([((x.astype(np.float64) - y) ** 2).mean() for x, y in _pairs(a, b)])
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(a: np.ndarray, b: np.ndarray, window: str = "gauss", data_range: float = 255) -> np.ndarray:
    """Structural similarity (Wang et al., 2004, eq. 13), averaged over positions and channels.

    Only windows that lie inside the image count.

    Args:
      a, b: uint8 `[B, H, W, C]`, no side shorter than the window.
      window: "gauss" is the paper's, 11 x 11 with sigma 1.5 and population covariance; "uniform7" the 7 x 7 box with
        sample covariance that scikit-image takes by default.
      data_range: span of the pixel values that the stabilising constants assume. 255 on 8-bit images is the same as 1
        on images in [0, 1]; 510 gives the numbers of code that assumes 2 on images in [0, 1], as SoftVQ's release does.

    Returns:
      `[B]` float64.

    Raises:
      ValueError: for an unknown window, and where the two are not batches of 8-bit images of one shape.
    """
    if window not in WINDOWS:
        raise ValueError(f"window is {window!r}; expected one of {', '.join(WINDOWS)}")
    weights, bessel = WINDOWS[window]
    pairs = _pairs(a, b)
    height, width = a.shape[1:3]
    if min(height, width) < len(weights):
        raise ValueError(f"images of {height} x {width} pixels; SSIM's window needs {len(weights)} each way")
    return np.array([_ssim(x.astype(np.float64), y.astype(np.float64), weights, bessel, data_range) for x, y in pairs])


def _gaussian(size: int, sigma: float) -> np.ndarray:
    weights = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return weights / weights.sum()


# One axis of the separable window, and the factor that makes its covariance the sample's where that is asked.
WINDOWS = {"gauss": (_gaussian(11, 1.5), 1.0), "uniform7": (np.full(7, 1 / 7), 49 / 48)}


def _ssim(a, b, weights, bessel, data_range) -> float:
    """SSIM of one pair of images, `[H, W, C]` float64."""
    mean_a, mean_b, square_a, square_b, product = (_windowed_mean(x, weights) for x in (a, b, a * a, b * b, a * b))
    variance_a = bessel * (square_a - mean_a**2)
    variance_b = bessel * (square_b - mean_b**2)
    covariance = bessel * (product - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float((luminance * structure).mean())


def _windowed_mean(x, weights):
    """Weighted mean over every window inside `x` `[H, W, C]`: one axis after the other."""
    size = len(weights)
    return sliding_window_view(sliding_window_view(x, size, axis=0) @ weights, size, axis=1) @ weights


def _pairs(a, b):
    """The images of two batches, side by side, where the two are what the metrics take."""
    for name, images in (("a", a), ("b", b)):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"{name} is {images.dtype} of shape {images.shape}; expected uint8 [B, H, W, C]: "
                "to_uint8 makes it of images in [-1, 1]"
            )
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; expected the same number of images of one size")
    return list(zip(a, b, strict=True))
