"""The row cache: measured values of each image on disk, so that memory stays constant and interrupted work resumes.

A column is a file of rows of equal size, one for each readable image, in the order of the images; `item` holds their
indexes. `records.json` holds the
metadata, which identify what the rows were computed from.
"""

import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from softvq_jax.weights import files

ITEM = "item"  # the column of the images' indexes


class RowCache:
    """The columns of one set of images in a folder.

    Args:
      folder: folder of the columns, created if it does not exist; rows from an interrupted run are kept.
      metadata: JSON values that identify what is measured, such as the version of the images and the weights.

    Raises:
      ValueError: the folder holds rows with different metadata; the message names the first difference.
    """

    def __init__(self, folder: str | os.PathLike, metadata: Mapping):
        self.folder, self._metadata = pathlib.Path(folder), dict(metadata)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index, self._columns = self.folder / "records.json", {}
        if self._index.exists():
            found = files.read_json(self._index)
            self._check(found["about"])
            if ITEM in found["columns"]:  # rows of older versions, which had none, are measured again
                self._columns = {name: (np.dtype(t), tuple(w)) for name, (t, w) in found["columns"].items()}
            else:
                for path in self.folder.glob("*.rows"):
                    path.unlink()
        self._count = self._truncate_to_complete_rows()

    def __len__(self) -> int:
        """The number of rows: of readable images so far."""
        return self._count

    @property
    def items(self) -> np.ndarray:
        """The index of the image of each row, int64 `[len(self)]`."""
        return self[ITEM] if self._count else np.zeros(0, np.int64)

    @property
    def next_item(self) -> int:
        """The index of the first image that is not measured yet."""
        return int(self.items[-1]) + 1 if self._count else 0

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> np.ndarray:
        """A column `[len(self), ...]`, memory-mapped, so that slices and rows are read on demand."""
        dtype, shape = self._columns[name]
        return np.asarray(np.memmap(self._path(name), dtype, "r", shape=(self._count, *shape)))

    def append(self, rows: Mapping[str, np.ndarray], items: np.ndarray | None = None) -> None:
        """Appends the rows of the next images.

        Args:
          rows: `[n, ...]` in every column.
          items: the images' indexes `[n]`, in increasing order; default: those that follow.
        """
        if items is None:
            count = len(next(iter(rows.values())))
            items = np.arange(self.next_item, self.next_item + count)
        rows = {**rows, ITEM: np.asarray(items, np.int64)}
        if not self._columns:
            self._columns = {name: (np.asarray(value).dtype, np.shape(value)[1:]) for name, value in rows.items()}
            layout = {name: (dtype.str, shape) for name, (dtype, shape) in self._columns.items()}
            files.write_json(self._index, {"about": self._metadata, "columns": layout})
        counts = set()
        for name, (dtype, _) in self._columns.items():
            with open(self._path(name), "ab") as file:
                file.write(np.ascontiguousarray(rows[name], dtype).tobytes())
            counts.add(len(rows[name]))
        if len(counts) != 1:
            raise ValueError(f"columns of {sorted(counts)} rows; expected one row for each image in every column")
        self._count += counts.pop()

    def _path(self, name):
        return self.folder / f"{name}.rows"

    def _check(self, found):
        for name in sorted(self._metadata.keys() | found.keys()):
            ours, theirs = self._metadata.get(name), found.get(name)
            if ours != theirs:
                raise ValueError(
                    f"{self.folder} is of another evaluation: its {name} is {theirs!r}, not {ours!r}. "
                    "Choose another folder, or remove that one"
                )

    def _truncate_to_complete_rows(self) -> int:
        """Removes incomplete rows after an interruption; returns the number of rows."""
        rows = {}
        for name, layout in self._columns.items():
            self._path(name).touch()
            rows[name] = self._path(name).stat().st_size // _row_bytes(*layout)
        count = min(rows.values(), default=0)
        for name, layout in self._columns.items():
            os.truncate(self._path(name), count * _row_bytes(*layout))
        return count


def _row_bytes(dtype, shape) -> int:
    return dtype.itemsize * math.prod(shape)
