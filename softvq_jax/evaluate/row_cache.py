"""What was measured of each image, kept in a folder while it is measured: memory stays flat, and work resumes.

A column is a file of equal rows, one an image, in the order of the images. `records.json` says what they are of.
"""

import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from softvq_jax.weights import files


class Column:
    """One number or vector per image, on disk: `column[a:b]` and `column[rows]` read just those."""

    def __init__(self, path: pathlib.Path, dtype: np.dtype, width: tuple[int, ...], count: int):
        self._path, self.dtype, self.shape = path, dtype, (count, *width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        with open(self._path, "rb") as file:
            if isinstance(rows, slice):
                start, stop, step = rows.indices(len(self))
                return self._read(file, start, max(stop - start, 0))[::step]
            return np.concatenate([self._read(file, int(row), 1) for row in rows])

    def _read(self, file, start, count):
        size = _row_bytes(self.dtype, self.shape[1:])
        file.seek(start * size)
        return np.frombuffer(file.read(count * size), self.dtype).reshape(count, *self.shape[1:])


def _row_bytes(dtype, width) -> int:
    return dtype.itemsize * math.prod(width)


class Records:
    """The columns of one set of images, in `folder`.

    Args:
      folder: created when it is not there; what an interrupted run left is taken up.
      about: JSON values that say what is measured (the images' version, the weights, ...).

    Raises:
      ValueError: the folder holds records of something else; the message names the first difference.
    """

    def __init__(self, folder: str | os.PathLike, about: Mapping):
        self.folder, self._about = pathlib.Path(folder), dict(about)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index, self._columns = self.folder / "records.json", {}
        if self._index.exists():
            found = files.read_json(self._index)
            self._check(found["about"])
            self._columns = {name: (np.dtype(t), tuple(w)) for name, (t, w) in found["columns"].items()}
        self._count = self._complete_rows()

    def __len__(self) -> int:
        """Images measured so far."""
        return self._count

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Column:
        return Column(self._path(name), *self._columns[name], self._count)

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds the next images' rows, `[n, ...]` in every column."""
        if not self._columns:
            self._columns = {name: (np.asarray(value).dtype, np.shape(value)[1:]) for name, value in rows.items()}
            layout = {name: (dtype.str, width) for name, (dtype, width) in self._columns.items()}
            files.write_json(self._index, {"about": self._about, "columns": layout})
        counts = set()
        for name, (dtype, _) in self._columns.items():
            with open(self._path(name), "ab") as file:
                file.write(np.ascontiguousarray(rows[name], dtype).tobytes())
            counts.add(len(rows[name]))
        if len(counts) != 1:
            raise ValueError(f"columns of {sorted(counts)} rows; expected one row an image in each")
        self._count += counts.pop()

    def _path(self, name):
        return self.folder / f"{name}.rows"

    def _check(self, found):
        for name in sorted(self._about.keys() | found.keys()):
            ours, theirs = self._about.get(name), found.get(name)
            if ours != theirs:
                raise ValueError(
                    f"{self.folder} is of another evaluation: its {name} is {theirs!r}, this one's {ours!r}. "
                    "Name another folder, or remove that one"
                )

    def _complete_rows(self) -> int:
        """Rows that every column has; what an interruption left beyond them is cut off."""
        rows = {}
        for name, layout in self._columns.items():
            self._path(name).touch()
            rows[name] = self._path(name).stat().st_size // _row_bytes(*layout)
        count = min(rows.values(), default=0)
        for name, layout in self._columns.items():
            os.truncate(self._path(name), count * _row_bytes(*layout))
        return count
