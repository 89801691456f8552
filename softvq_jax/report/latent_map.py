"""A map of latents, in which images with similar latents are near each other."""

import importlib.util

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment


def principal_components(points: np.ndarray, count: int = 2) -> np.ndarray:
    """Projects points `[n, d]` onto the `count` directions of largest variance; returns `[n, count]` with mean 0."""
    centered = np.asarray(points, np.float64) - np.mean(points, axis=0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centered, full_matrices=False)
    projected = left[:, :count] * lengths[:count]
    return np.pad(projected, ((0, 0), (0, count - projected.shape[1])))


def square_cells(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Assigns points to different cells of a square grid such that the total squared distance is least.

    Args:
      points: `[n, 2]`.

    Returns:
      Column and row of each point's cell, `[n, 2]`, and the number of columns.
    """
    side = int(np.ceil(len(points) ** 0.5))
    ranks = points.argsort(axis=0).argsort(axis=0)  # because outliers would leave most of the grid empty
    targets = ranks / max(len(points) - 1, 1) * (side - 1)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    cost = ((targets[:, None] - cells[None]) ** 2).sum(axis=-1)
    return cells[linear_sum_assignment(cost)[1]], side


def umap_plane(points: np.ndarray) -> np.ndarray:
    """Embeds points `[n, d]` in the plane by UMAP (McInnes et al., 2018); returns `[n, 2]`."""
    import umap  # pyright: ignore[reportMissingImports] (extra)

    return umap.UMAP(n_neighbors=min(15, len(points) - 1), random_state=0).fit_transform(points)


PLANES = {"pca": principal_components, "umap": umap_plane}


def check_method(method: str, name: str = "method") -> None:
    """Checks that a map can be drawn by a method.

    Args:
      method: "pca" or "umap".
      name: name of the setting, for messages.

    Raises:
      ValueError: the method is unknown.
      ImportError: the method's package is not installed.
    """
    if method not in PLANES:
        raise ValueError(f"{name} must be one of {', '.join(PLANES)}; got {method!r}")
    if method == "umap" and importlib.util.find_spec("umap") is None:  # importing it takes many seconds
        raise ImportError(f"{name}='umap' needs: pip install 'softvq-jax[umap]'")


def draw_map(latents: np.ndarray, images: np.ndarray, thumbnail: int = 40, method: str = "pca") -> np.ndarray:
    """Draws thumbnails of images at the positions of their latents in the plane.

    Args:
      latents: `[n, L, D]`.
      images: uint8 `[n, H, W, 3]`.
      thumbnail: side of an image on the map, in pixels.
      method: "pca", the first two principal components, or "umap", which keeps neighbors together.

    Returns:
      uint8 `[S, S, 3]`.
    """
    check_method(method)
    cells, side = square_cells(PLANES[method](latents.reshape(len(latents), -1)))
    canvas = np.full((side * thumbnail, side * thumbnail, 3), 255, np.uint8)
    for (column, row), image in zip(cells, images, strict=True):
        small = Image.fromarray(image).resize((thumbnail, thumbnail), Image.Resampling.BOX)
        top, left = row * thumbnail, column * thumbnail
        canvas[top : top + thumbnail, left : left + thumbnail] = np.asarray(small)
    return canvas
