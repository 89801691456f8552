import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.losses import diff_augment as da

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 300)


def images(count=4, size=16):
    return RNG.uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def test_color():
    x = images()
    brightness, saturation, contrast = RNG.uniform(0.2, 1.5, (3, 4, 1, 1, 1)).astype(np.float32)
    expected = []
    for image, b, s, c in zip(x, brightness, saturation, contrast, strict=True):
        image = image + b
        gray = image.mean(axis=2, keepdims=True)
        image = gray + (image - gray) * s
        expected.append(image.mean() + (image - image.mean()) * c)
    np.testing.assert_allclose(da.adjust_color(x, brightness, saturation, contrast), expected, atol=1e-6)


@pytest.mark.parametrize("size", [16, 20, 12])
def test_translation_fills_with_zeros(size):
    reach = int(np.floor(size / 8 + 0.5))
    shifts = np.array([[0, 0], [reach, -reach], [-reach, 1], [1, reach]])
    x, expected = images(4, size), np.zeros((4, size, size, 3), np.float32)
    for i, (down, right) in enumerate(shifts):
        for row in range(size):
            for column in range(size):
                if 0 <= row - down < size and 0 <= column - right < size:
                    expected[i, row, column] = x[i, row - down, column - right]
    np.testing.assert_array_equal(da.translate(x, jnp.asarray(shifts)), expected)


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_is_cut_off_at_the_border(side):
    centers = [(0, 0), (8, 5), (15, 2), (16 - side % 2, 16 - side % 2)]
    x = images()
    expected = x.copy()
    for i, (row, column) in enumerate(centers):
        top, left = row - side // 2, column - side // 2
        expected[i, max(top, 0) : top + side, max(left, 0) : left + side] = 0
    ours = da.cut_out(x, jnp.asarray(centers), (side, side))
    np.testing.assert_array_equal(ours, expected)
    assert (ours[0] == 0).any() and (ours[3] == 0).any()  # a center on the border still cuts something


def test_strengths_cover_their_ranges():
    """Strengths are inferred from the effect of the transformations on special images; 1,200 draws of each."""
    row = np.zeros((4, 32, 32, 3), np.float32)
    row[:, 16, 16] = 1
    moved = jax.jit(jax.vmap(lambda key: da.random_translation(key, row)))(KEYS)
    places = np.argwhere(np.asarray(moved)[..., 0])
    assert len(places) == 1200  # one bright pixel each, never lost
    for axis in (2, 3):
        assert set(places[:, axis] - 16) == set(range(-4, 5))

    # Brightness moves the mean, contrast and saturation do not; a gray image shows contrast alone.
    ramp = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[:, None, None], (4, 16, 16, 3))
    out = np.asarray(jax.jit(jax.vmap(lambda key: da.random_color(key, ramp)))(KEYS)).reshape(1200, -1)
    assert_uniform(out.mean(1), -0.5, 0.5)
    assert_uniform(out.std(1) / ramp.std(), 0.5, 1.5)
    colored = np.broadcast_to(np.array([-1, 0, 1], np.float32), (4, 8, 8, 3))
    out = np.asarray(jax.jit(jax.vmap(lambda key: da.random_color(key, colored)))(KEYS)).reshape(1200, -1)
    spread = out.std(1) / colored.std()  # saturation times contrast
    assert spread.max() < 3 and spread.mean() == pytest.approx(1, abs=0.05)

    white = np.ones((4, 20, 20, 1), np.float32)
    cut = 1 - np.asarray(jax.jit(jax.vmap(lambda key: da.random_cutout(key, white, share=0.2)))(KEYS))[..., 0]
    areas = cut.reshape(1200, -1).sum(1)
    assert areas.max() == 16 and areas.min() == 4  # a square of 4, or what the border leaves of it
    assert (cut.reshape(1200, 20, 20).mean(0) > 0).all()  # anywhere


def assert_uniform(draws, low, high):
    assert low <= draws.min() + 1e-5 and draws.max() <= high + 1e-5
    np.testing.assert_allclose(
        np.quantile(draws, [0.1, 0.5, 0.9]), low + (high - low) * np.array([0.1, 0.5, 0.9]), atol=0.06
    )


def test_each_group_on_half_of_the_batches_and_on_all_of_a_batch():
    """A constant gray image shows which augmentations were applied: another gray, zeros at an edge, zeros elsewhere."""
    ones = np.ones((4, 16, 16, 3), np.float32)
    outs = np.asarray(jax.jit(jax.vmap(lambda key: da.diff_augment(key, ones)))(KEYS))[..., 0]
    colored = ~np.isclose(outs.max(axis=(2, 3)), 1)
    moved_in = (outs == 0).all(3)[..., None] | (outs == 0).all(2)[..., None, :]
    cut = ((outs == 0) & ~moved_in).any((1, 2, 3))
    translated = moved_in.any((1, 2, 3))
    assert (colored.all(1) == colored.any(1)).all()
    met = np.stack([colored.any(1), translated, cut])
    assert (np.abs(met.mean(1) - 0.5) < 0.1).all()  # 300 coins: a deviation of 0.03
    assert (np.abs(np.corrcoef(met)[np.triu_indices(3, 1)]) < 0.2).all()


@pytest.mark.slow
def test_probability_one_and_zero():
    x = images()
    np.testing.assert_array_equal(da.diff_augment(KEYS[0], x, probability=0.0), x)
    parts = [jax.random.split(key)[1] for key in jax.random.split(KEYS[1], 3)]
    colored = da.random_color(parts[0], x)
    expected = da.random_cutout(parts[2], da.random_translation(parts[1], colored), share=0.5)
    strong = jax.jit(lambda key, x: da.diff_augment(key, x, probability=1.0, cutout=0.5))
    np.testing.assert_allclose(strong(KEYS[1], x), expected, atol=1e-6)
    assert np.mean(np.asarray(expected) == 0) > 0.1


def test_a_key_determines_the_augmentation():
    """For a given key, the augmentation is an affine map of the image, the same for real and generated images."""
    a, b = images(), images()
    distort = jax.jit(lambda x: da.diff_augment(KEYS[2], x, probability=1.0))
    middle = distort((a + b) / 2)
    np.testing.assert_allclose(middle, (distort(a) + distort(b)) / 2, atol=1e-5)


def test_gradient_flows_and_stops_at_the_cutout():
    x = images()
    forward = jax.jit(lambda x: da.diff_augment(KEYS[3], x, probability=1.0))
    direction = images()
    grad = jax.grad(lambda x: forward(x).sum())(x)
    change = (forward(x + 0.5 * direction) - forward(x - 0.5 * direction)).sum()
    np.testing.assert_allclose((grad * direction).sum(), change, rtol=1e-3)
    cut = jax.grad(lambda x: da.cut_out(x, jnp.full((4, 2), 8), (4, 4)).sum())(x)
    assert not np.any(cut[:, 6:10, 6:10]) and np.sum(cut) == cut.size - 4 * 16 * 3
