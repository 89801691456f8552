import numpy as np
import pytest
from PIL import Image

from softvq_jax.data import crops


def gradient(width: int, height: int) -> Image.Image:
    """Returns an image in which red grows with the column, green with the row."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))


@pytest.mark.parametrize(("mode", "color", "expected"), [
    ("L", 77, (77, 77, 77)),
    ("LA", (77, 255), (77, 77, 77)),
    ("LA", (77, 0), (255, 255, 255)),
    ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
    ("RGBA", (0, 0, 200, 51), (204, 204, 244)),
    ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
    ("I;16", 77 * 257, (77, 77, 77)),
    ("I", 77 * 257, (77, 77, 77)),
    ("1", 1, (255, 255, 255)),
])  # fmt: skip
def test_every_mode_becomes_rgb(mode, color, expected):
    image = Image.new(mode, (4, 4), color)
    assert (np.asarray(crops.to_rgb(image)) == expected).all()


def test_palette_is_translated():
    image = Image.new("RGB", (4, 4), (200, 10, 60)).quantize(4)
    assert (np.asarray(crops.to_rgb(image)) == (200, 10, 60)).all()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (65, 640), (1000, 131), (40, 33)])
def test_the_smaller_side_gets_the_target_and_the_aspect_ratio_is_kept(width, height):
    resized = crops.resize_smaller_side(Image.new("RGB", (width, height)), 64)
    assert min(resized.size) == 64
    assert max(resized.size) == pytest.approx(64 * max(width, height) / min(width, height), rel=0.02)


def test_halvings_average_pairs():
    """At exactly twice and four times the target, the result is the mean over blocks."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    resized = np.asarray(crops.resize_smaller_side(Image.fromarray(pixels), 8)).astype(float)
    means = pixels.reshape(8, 4, 12, 4, 3).mean((1, 3))
    assert np.abs(resized - means).max() <= 2  # each halving rounds twice, upwards


def test_center_crop_is_centered():
    crop = crops.center_crop(gradient(300, 200), 100).astype(float)
    assert crop.shape == (100, 100, 3)
    np.testing.assert_allclose(crop[:, :, 0].mean(), 127.5, atol=2)
    np.testing.assert_allclose(crop[:, :, 1].mean(), 127.5, atol=2)


def test_random_crop_keeps_at_least_the_share_and_reaches_every_edge():
    """Returns scale and offset, computed from the colors of a gradient."""
    rng = np.random.default_rng(0)
    spans, lefts = [], []
    for _ in range(200):
        red = crops.random_crop(gradient(512, 512), 64, rng)[32, :, 0].astype(float)
        spans.append((red[-1] - red[0]) / 255)
        lefts.append(red[0])
    assert min(spans) == pytest.approx(0.8, abs=0.03) and max(spans) == pytest.approx(1, abs=0.03)
    assert min(lefts) < 3 and max(lefts) > 40


def test_drawn_sizes_are_uniform_and_inclusive(monkeypatch):
    drawn = []
    resized = crops._resized
    monkeypatch.setattr(crops, "_resized", lambda size, target: drawn.append(target) or resized(size, target))
    rng = np.random.default_rng(0)
    for _ in range(400):
        crops.random_crop(Image.new("RGB", (30, 30)), 16, rng)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [16, 17, 18, 19, 20]  # 20 = ceil(16 / 0.8)
    assert counts.min() > 50


@pytest.mark.parametrize(("width", "height"), [(300, 200), (97, 640), (40, 33), (30, 1000), (1000, 1)])
@pytest.mark.parametrize("size", [32, 96])
def test_crops_are_those_of_a_whole_resized_image(width, height, size):
    """ADM's own code: the image is resized, then cut. Long images are not resized as a whole, with the same pixels."""
    image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))
    whole = np.asarray(crops.resize_smaller_side(image, size))
    rows, columns = whole.shape[0] - size, whole.shape[1] - size
    expected = whole[rows // 2 : rows // 2 + size, columns // 2 : columns // 2 + size]
    assert np.abs(crops.center_crop(image, size).astype(int) - expected).mean() <= (
        0.01 if max(width, height) > 8 * min(width, height) else 0
    )

    rng = np.random.default_rng(3)
    whole = np.asarray(crops.resize_smaller_side(image, int(rng.integers(size, -(-size // 0.8), endpoint=True))))
    top, left = (int(rng.integers(side - size + 1)) for side in whole.shape[:2])
    ours = crops.random_crop(image, size, np.random.default_rng(3)).astype(int)
    differing = np.abs(ours - whole[top : top + size, left : left + size])
    assert differing.max() <= 1 and differing.mean() <= (0.01 if max(width, height) > 8 * min(width, height) else 0)


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (2, 65_000), (60_000, 1)])
def test_long_images_need_little_memory(width, height, monkeypatch):
    made = []
    resize = Image.Image.resize

    def counted(image, size, *args, **kwargs):
        made.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    image, rng = Image.new("RGB", (width, height)), np.random.default_rng(0)
    for crop in (
        crops.center_crop(image, 256),
        crops.random_crop(image, 256, rng),
        crops.random_region(image, 256, rng),
    ):
        assert crop.shape == (256, 256, 3)
    assert max(made) <= crops.MAX_GROWTH * (width * height + 256 * 256)


@pytest.mark.parametrize("size", [16, 40, 64, 200])
def test_random_region_of_any_image(size):
    rng = np.random.default_rng(0)
    for width, height in [(100, 64), (64, 300), (30, 30)]:
        assert crops.random_region(Image.new("RGB", (width, height)), size, rng).shape == (size, size, 3)


def test_flip_mirrors_half_of_the_time():
    crop = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    rng = np.random.default_rng(0)
    flipped = [np.array_equal(crops.random_flip(crop, rng), crop[:, ::-1]) for _ in range(200)]
    assert 70 < sum(flipped) < 130
