"""`.npz` files without loading them: which arrays they hold, and an array's rows from where they lie."""

import os
import struct
import zipfile
from typing import BinaryIO

import numpy as np


def array_names(path: str | os.PathLike) -> list[str]:
    """The arrays of an `.npz` file; ValueError where it is cut short or something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .npz file, or is cut short: copy or write it again") from error


class ArrayRows:
    """Rows of one array of an `.npz` file, read when they are asked for.

    Raises:
      ValueError: the array is stored column by column.
    """

    def __init__(self, path: str, key: str):
        self._path, self._file = path, _open_member(path, f"{key}.npy")
        version = np.lib.format.read_magic(self._file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        self.shape, columns_first, self.dtype = header(self._file)
        if columns_first:
            raise ValueError(f"{path}: {key} is stored column by column; save np.ascontiguousarray of it")
        self._begin = self._file.tell()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start ... stop - 1`; ValueError where the file ends before."""
        size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._file.seek(self._begin + start * size)
        content = self._file.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise ValueError(f"{self._path} is cut short after row {start + len(content) // size} of {self.shape[0]}")
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])


def _open_member(path: str, name: str) -> BinaryIO:
    """A file in a zip archive; one stored uncompressed is opened in place, where seeking costs nothing."""
    archive = zipfile.ZipFile(path)
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return archive.open(name)
    archive.close()
    file = open(path, "rb")  # noqa: SIM115 (it stays open)
    file.seek(member.header_offset + 26)  # the lengths of what lies between the local header and the content
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(name_length + extra_length, os.SEEK_CUR)
    return file
