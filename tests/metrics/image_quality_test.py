import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from softvq_jax.metrics import image_quality


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 24, 31, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 40, a.shape), 0, 255).astype(np.uint8)
    return a, b


def gaussian():
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    return weights / weights.sum()


def ssim_by_definition(a, b, weights, bessel, data_range):
    """SSIM of two images `[H, W, C]` (Wang et al., 2004, eq. 13), over all windows inside the image."""
    size = len(weights)

    def mean(x):
        return sliding_window_view(sliding_window_view(x, size, axis=0) @ weights, size, axis=1) @ weights

    a, b = np.float64(a), np.float64(b)
    variances = [bessel * (mean(x * x) - mean(x) ** 2) for x in (a, b)]
    covariance = bessel * (mean(a * b) - mean(a) * mean(b))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    return (luminance * (2 * covariance + c2) / (sum(variances) + c2)).mean()


def test_psnr_is_its_definition(pair):
    errors = [((np.float64(x) - y) ** 2).mean() for x, y in zip(*pair, strict=True)]
    np.testing.assert_allclose(image_quality.psnr(*pair), 10 * np.log10(255**2 / np.array(errors)), rtol=1e-12)


def test_psnr_of_one_level_is_48_db():
    black = np.zeros((1, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(image_quality.psnr(black, black + 1), 20 * np.log10(255))
    assert np.isinf(image_quality.psnr(black, black)).all()


@pytest.mark.parametrize(
    ("window", "weights", "bessel"), [("gauss", gaussian(), 1.0), ("uniform7", np.full(7, 1 / 7), 49 / 48)]
)
@pytest.mark.parametrize("data_range", [255, 510])
def test_ssim_is_its_definition(pair, window, weights, bessel, data_range):
    expected = [ssim_by_definition(x, y, weights, bessel, data_range) for x, y in zip(*pair, strict=True)]
    np.testing.assert_allclose(image_quality.ssim(*pair, window, data_range), expected, rtol=1e-9)


def test_ssim_of_an_image_with_itself_is_one(pair):
    np.testing.assert_allclose(image_quality.ssim(pair[0], pair[0]), 1)


def test_bad_pairs_are_named(pair):
    a, b = pair
    with pytest.raises(ValueError, match="b is float32"):
        image_quality.psnr(a, b.astype(np.float32))
    with pytest.raises(ValueError, match=r"\(3, 24, 31, 3\).*\(2, 24, 31, 3\)"):
        image_quality.ssim(a, b[:2])
    with pytest.raises(ValueError, match="window is 'box'"):
        image_quality.ssim(a, b, "box")
    with pytest.raises(ValueError, match="needs 11"):
        image_quality.ssim(a[:, :10], b[:, :10])
