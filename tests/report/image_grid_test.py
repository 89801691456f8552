import numpy as np
import pytest

from softvq_jax.report import image_grid


def test_long_rows_are_wrapped_together():
    above = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 3), np.uint8)
    picture = image_grid.rows_grid([above, above + 100], per_line=3)
    assert picture.shape == (4 * 4 - 2, 3 * 5 - 2, 3)
    np.testing.assert_array_equal(picture[::4, ::5, 0], [[1, 2, 3], [101, 102, 103], [4, 5, 255], [104, 105, 255]])
    assert (picture[2:4] == 255).all() and (picture[:, 3:5] == 255).all()  # the gaps


def test_a_single_pair():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    assert image_grid.pairs_grid(image, image).shape == (10, 4, 3)


def test_a_grid_is_cut_into_its_images():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(image_grid.cells(image_grid.grid(images, 2), 3, 4).reshape(images.shape), images)
    with pytest.raises(ValueError, match="10 x 13 is not a grid of 4 x 4 pixels"):
        image_grid.cells(image_grid.grid(images, 2), 4, 4)
