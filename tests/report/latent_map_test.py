import importlib.util

import numpy as np
import pytest

from softvq_jax.report.latent_map import draw_map, principal_components, square_cells


def test_principal_components_find_the_plane_of_the_points():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) * [5, 1]
    axes = np.linalg.qr(rng.normal(size=(9, 2)))[0].T
    projected = principal_components(plane @ axes + 3)
    centered = plane - plane.mean(axis=0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    np.testing.assert_allclose(np.abs(projected), np.abs(centered @ vectors[:, ::-1]), atol=1e-9)


def test_points_get_different_cells_near_their_places():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 2))
    cells, side = square_cells(points)
    assert side == 6 and len({tuple(cell) for cell in cells}) == 30 and cells.min() >= 0 and cells.max() < 6
    for axis in range(2):
        assert np.corrcoef(points[:, axis], cells[:, axis])[0, 1] > 0.8


def test_images_with_similar_latents_are_neighbors():
    images = np.zeros((18, 8, 8, 3), np.uint8)
    images[9:] = 200
    latents = np.random.default_rng(0).normal(size=(18, 2, 3)) + 20 * (np.arange(18) >= 9)[:, None, None]
    picture = draw_map(latents, images, thumbnail=4)
    assert picture.shape == (20, 20, 3)
    kinds = picture[::4, ::4, 0]
    dark, light = np.argwhere(kinds == 0), np.argwhere(kinds == 200)
    assert len(dark) == len(light) == 9
    assert abs(dark[:, 1].mean() - light[:, 1].mean()) > 1.5  # the first component, from left to right


def test_a_single_image_can_be_mapped():
    assert draw_map(np.zeros((1, 2, 3)), np.zeros((1, 8, 8, 3), np.uint8)).shape == (40, 40, 3)


def test_umap_is_an_extra():
    images, latents = np.zeros((30, 8, 8, 3), np.uint8), np.random.default_rng(0).normal(size=(30, 2, 3))
    if importlib.util.find_spec("umap"):
        assert draw_map(latents, images, thumbnail=4, method="umap").shape == (24, 24, 3)
    else:
        with pytest.raises(ImportError, match=r"softvq-jax\[umap\]"):
            draw_map(latents, images, method="umap")
    with pytest.raises(ValueError, match="method must be one of pca, umap; got 'tsne'"):
        draw_map(latents, images, method="tsne")
