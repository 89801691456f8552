"""A map of latents: images whose latents are alike lie near each other."""

import importlib.util

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment


def principal_components(points: np.ndarray, count: int = 2) -> np.ndarray:
    """`[n, d]` projected on the `count` directions of largest variance: `[n, count]`, centred."""
    centred = np.asarray(points, np.float64) - np.mean(points, axis=0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    projected = left[:, :count] * lengths[:count]
    return np.pad(projected, ((0, 0), (0, count - projected.shape[1])))


def square_cells(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Moves points onto the cells of a square grid, no two on one, as short a way as possible in all.

    Args:
      points: `[n, 2]`.

    Returns:
      The cell of each point, `[n, 2]` as column and row, and the grid's side.
    """
    side = int(np.ceil(len(points) ** 0.5))
    ranks = points.argsort(axis=0).argsort(axis=0)  # by rank, so that a few far points do not empty the rest
    targets = ranks / max(len(points) - 1, 1) * (side - 1)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    cost = ((targets[:, None] - cells[None]) ** 2).sum(axis=-1)
    return cells[linear_sum_assignment(cost)[1]], side


def umap_plane(points: np.ndarray) -> np.ndarray:
    """`[n, d]` laid out by UMAP (McInnes et al., 2018): `[n, 2]`."""
    import umap

    return umap.UMAP(n_neighbors=min(15, len(points) - 1), random_state=0).fit_transform(points)


PLANES = {"pca": principal_components, "umap": umap_plane}


def check_method(method: str, name: str = "the map's method") -> None:
    """Raises ValueError for a map that is not there, and ImportError for one whose extra is not installed.

    Args:
      name: what the caller calls it, for the message.
    """
    if method not in PLANES:
        raise ValueError(f"{name} is {method!r}; expected one of {', '.join(PLANES)}")
    if method == "umap" and importlib.util.find_spec("umap") is None:  # its import takes many seconds
        raise ImportError("a map by UMAP needs: pip install 'softvq-jax[umap]'")


def draw_map(latents: np.ndarray, images: np.ndarray, thumbnail: int = 40, method: str = "pca") -> np.ndarray:
    """The picture: images at the place of their latents' first two principal components.

    Args:
      latents: `[n, L, D]`.
      images: uint8 `[n, H, W, 3]`.
      thumbnail: side of an image on the map, in pixels.
      method: one of `PLANES`; "umap" keeps neighbours together instead of showing the largest variance.

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
