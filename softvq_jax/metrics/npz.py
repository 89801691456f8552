"""Reads rows of arrays in `.npz` files without loading whole arrays; files in a bucket from a local copy.

`np.load(..., mmap_mode="r")` is not used because it ignores the mode for `.npz` files.
"""

import contextlib
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from softvq_jax.storage import mirror


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns the many errors of NumPy and zipfile for damaged files into a ValueError that names the file.

    Errors inside that name it already, and those of files that are missing or closed to us, are passed on.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{path} is not an .npz file, or is damaged ({type(error).__name__}: {reason}): copy or write it again"
        ) from error


def array_names(path: str | os.PathLike) -> list[str]:
    """Returns the names of the arrays in an `.npz` file; raises ValueError if it is damaged or not an `.npz` file."""
    local = mirror.local_file(path)
    with reading(path), zipfile.ZipFile(local) as archive:
        for name in archive.namelist():
            archive.open(name).close()  # compares it with the name at the member itself
        return [name.removesuffix(".npy") for name in archive.namelist()]


class ArrayRows:
    """Rows of one array of an `.npz` file, read on demand.

    Where all rows are read in order, the last read checks the array's checksum.

    Raises:
      ValueError: the file is damaged, or the array is stored in Fortran order.
    """

    def __init__(self, path: str, key: str):
        self._path, local = path, mirror.local_file(path)
        with reading(path):
            self._file, self._expected = _open_member(local, f"{key}.npy")
            begin = self._file.tell()
            version = np.lib.format.read_magic(self._file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            self.shape, columns_first, self.dtype = header(self._file)
            self._begin = self._file.tell()
            self._file.seek(begin)
            self._checksum_of_header = zlib.crc32(self._file.read(self._begin - begin))
        if columns_first:
            raise ValueError(f"{path}: {key} is stored in Fortran order; save np.ascontiguousarray of it")
        self._checked_rows, self._checksum = 0, self._checksum_of_header

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop - 1`; raises ValueError if the file is damaged."""
        size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        with reading(self._path):
            self._file.seek(self._begin + start * size)
            content = self._file.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise ValueError(f"{self._path} is truncated after row {start + len(content) // size} of {self.shape[0]}")
        self._check(start, stop, content)
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])

    def _check(self, start, stop, content):
        if start == 0:
            self._checked_rows, self._checksum = 0, self._checksum_of_header
        if start == self._checked_rows:
            self._checked_rows, self._checksum = stop, zlib.crc32(content, self._checksum)
            if stop == self.shape[0] and self._checksum != self._expected:
                raise ValueError(f"{self._path} is damaged: its checksum differs: copy or write it again")


def _open_member(path: pathlib.Path, name: str) -> tuple[IO[bytes], int]:
    """Opens a member of a zip archive, and returns it with its CRC-32.

    An uncompressed member is opened in place, so that seeking is fast.
    """
    archive = zipfile.ZipFile(path)
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return archive.open(name), member.CRC
    archive.close()
    file = open(path, "rb")  # noqa: SIM115 (it stays open)
    file.seek(member.header_offset + 26)  # lengths of the two fields between the local header and the content
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(name_length + extra_length, os.SEEK_CUR)
    return file, member.CRC
