"""Writes one ArrayRecord shard of labeled images atomically, and checks shards."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from softvq_jax.data import crops, records, source
from softvq_jax.data.decoding import DEFAULT, Decoding
from softvq_jax.storage import files, listing, mirror

JPEG_QUALITY = 95  # for images that are shrunk
UNFINISHED = files.PARTIAL  # suffix of incomplete files, which a killed process leaves behind


def write_shard(
    path: str,
    images: Sequence[tuple[str, source.EncodedImage]],
    size: int | None,
    decoding: Decoding = DEFAULT,
) -> dict:
    """Writes images to a shard, reads it back, and only then renames it to `path`.

    Args:
      path: path of the shard.
      images: keys and references. Unreadable images are left out.
      size: smaller side in pixels to which larger images are shrunk; None keeps every file's bytes.
      decoding: how files become RGB, for images that are shrunk.

    Returns:
      `file`, `records`, `bytes`, `sha256` of the shard, and `unreadable`: key and reason for each image left out.

    Raises:
      OSError: the shard cannot be written.
      ValueError: the data read back differ from the data written.
    """
    unreadable = []

    def encoded():
        for key, image in images:
            try:
                yield records.encode(_example(key, image, size, decoding))
            except source.UnreadableImage as error:
                unreadable.append([key, error.reason])

    return write_records(path, encoded()) | {"unreadable": unreadable}


def write_records(path: str, encoded: Iterable[bytes]) -> dict:
    """Writes records to a shard as `write_shard` does.

    Returns:
      `file`, `records`, `bytes` and `sha256` of the shard.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            partial = str(stack.enter_context(files.replacing(path)))
        checksums = _write_all(path, partial, encoded)
        _read_back(partial, checksums)
        entry = {"file": os.path.basename(path), "records": len(checksums), **_size_and_checksum(partial)}
        with writing(path):
            stack.close()
    return entry


def _write_all(path, partial, encoded):
    checksums = []
    with writing(path):
        # Groups of one record, so that it is read without its neighbors. Encoded images do not compress further.
        writer = ArrayRecordWriter(partial, "group_size:1,uncompressed")
    for record in encoded:
        with writing(path):
            writer.write(record)
        checksums.append(hashlib.sha256(record).digest())
    with writing(path):
        writer.close()
    return checksums


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Converts write errors inside this context to an `OSError` that names the file, the reason and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # Riegeli's are RuntimeErrors
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{path} could not be written: {reason}. Check the free space and the permission to write, and start the same "
            "command again: it continues after the shards that are finished"
        ) from error


def check_shard(folder: str, entry: dict, num_classes: int) -> list[str]:
    """Returns the problems of a shard, given its entry in `dataset.json`; reads all of it and decodes every image."""
    name = os.path.join(folder, entry["file"])
    if not listing.exists(name):
        return [f"{name} is missing"]
    path = str(mirror.local_file(name))
    if _size_and_checksum(path) == {"bytes": entry["bytes"], "sha256": entry["sha256"]}:
        problems = []
    else:
        problems = [f"{name} is not the file that was written: size or SHA-256 differ"]
    try:
        reader = ArrayRecordReader(path, "")
    except RuntimeError as error:
        return [*problems, f"{name}: {error}"]
    for position in range(entry["records"]):
        where = f"{name} record {position}"
        try:
            example = records.decode(reader.read([position])[0])
            source.decode(example["image"], where)
        except source.UnreadableImage as error:
            problems.append(str(error))
        except (RuntimeError, IndexError, records.CorruptRecord) as error:
            problems.append(f"{where}: {error}")
        else:
            if not 0 <= example["label"] < num_classes:
                problems.append(f"{where}: label {example['label']}, and the classes are 0 to {num_classes - 1}")
    return problems


def _example(key, reference, size, decoding):
    encoded, label = reference.load()
    image = source.decode(encoded, reference.where, decoding)  # reports a damaged image now, not in the middle of a run
    if size is not None and min(image.size) > size:
        file = io.BytesIO()
        shrunk = crops.resize_smaller_side(image, size)
        shrunk.save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
        encoded = file.getvalue()
    return {"image": encoded, "label": np.int32(label), "name": key.encode(errors="surrogateescape")}


def _read_back(path, checksums):
    reader = ArrayRecordReader(path, "")
    if reader.num_records() != len(checksums):
        raise ValueError(f"{path}: {len(checksums)} records were written, {reader.num_records()} read back")
    for position, checksum in enumerate(checksums):
        if hashlib.sha256(reader.read([position])[0]).digest() != checksum:
            raise ValueError(f"{path}: record {position} does not read back as it was written")


def _size_and_checksum(path):
    with open(path, "rb") as file:
        return {"bytes": os.path.getsize(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
