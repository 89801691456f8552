"""Reads rows of arrays in `.npz` files without loading whole arrays.

`np.load(..., mmap_mode="r")` is not used because it ignores the mode for `.npz` files.
"""

import os
import struct
import zipfile
from typing import IO

import numpy as np


def array_names(path: str | os.PathLike) -> list[str]:
    """Returns the names of the arrays in an `.npz` file; raises ValueError if it is truncated or not an `.npz` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an .npz file, or is truncated: copy or write it again") from error


class ArrayRows:
    """Rows of one array of an `.npz` file, read on demand.

    Raises:
      ValueError: the array is stored in Fortran order.
    """

    def __init__(self, path: str, key: str):
        self._path, self._file = path, _open_member(path, f"{key}.npy")
        version = np.lib.format.read_magic(self._file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        self.shape, columns_first, self.dtype = header(self._file)
        if columns_first:
            raise ValueError(f"{path}: {key} is stored in Fortran order; save np.ascontiguousarray of it")
        self._begin = self._file.tell()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop - 1`; raises ValueError if the file is truncated."""
        size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._file.seek(self._begin + start * size)
        content = self._file.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise ValueError(f"{self._path} is truncated after row {start + len(content) // size} of {self.shape[0]}")
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])


def _open_member(path: str, name: str) -> IO[bytes]:
    """Opens a member of a zip archive; an uncompressed member is opened in place, so that seeking is fast."""
    archive = zipfile.ZipFile(path)
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return archive.open(name)
    archive.close()
    file = open(path, "rb")  # noqa: SIM115 (it stays open)
    file.seek(member.header_offset + 26)  # lengths of the two fields between the local header and the content
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(name_length + extra_length, os.SEEK_CUR)
    return file
