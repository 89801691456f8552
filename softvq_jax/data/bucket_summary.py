"""Describes a data set in a bucket by a few requests, to find a wrong path, kind or permission before a machine is rented.

Nothing is indexed or copied. So the number of images is known only for the kinds that store it.
"""

import json
import os
import tarfile
from collections.abc import Callable

from softvq_jax.data.array_record import INDEX, ArrayRecordShards
from softvq_jax.data.decoding import EXTENSIONS
from softvq_jax.data.folder import OTHER_SOURCES, is_junk
from softvq_jax.data.latents import LatentShards
from softvq_jax.data.parquet import ParquetShards
from softvq_jax.data.shard_files import find_shards, refuse_compressed
from softvq_jax.plurals import counted
from softvq_jax.storage import listing
from softvq_jax.storage.bucket_errors import NotFound
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.paths import bucket_path

LISTED = 20  # class folders in which an image is looked for


def describe(source: str, path: str) -> str:
    """Returns a description of the data at `path`, such as "1,000 images of 10 classes in 4 shards".

    Args:
      source: `data.source`.
      path: `data.path`, in a bucket.

    Raises:
      BucketError: the data, or the permission to list and to read them, are missing.
      FileNotFoundError: there are no data of this kind.
      ValueError: the data are of another kind, or damaged.
    """
    place = bucket_path(path.partition("@")[0] if source == "tfds" else path)
    try:
        return _KINDS[source](path)
    except FileNotFoundError as error:
        place.check_bucket()
        if found := _other_source(place, source):
            raise ValueError(f"{path} is not for data.source={source!r}, but for data.source={found!r}") from error
        raise


def _array_record(path: str) -> str:
    return _shards(ArrayRecordShards(path), "image")


def _latents(path: str) -> str:
    return _shards(LatentShards(path), "latent")


def _shards(shards: ArrayRecordShards, kind: str) -> str:
    bucket_path(shards.files[0]).read_range(0, 16)
    images = counted(len(shards), kind)
    return f"{images} of {_classes(shards)} in {counted(len(shards.files), 'shard')}"


def _classes(shards: ArrayRecordShards | ParquetShards) -> str:
    return counted(len(shards.class_names), "class", "classes")


def _folder(path: str) -> str:
    folder = bucket_path(path)
    entries = _visible(folder)
    if not entries:
        raise FileNotFoundError(f"there is nothing at {path}")
    if images := [entry for entry in entries if _is_image(entry)]:
        images[0].read_range(0, 16)
        return f"{counted(len(images), 'image')}, not in folders"
    for entry in entries[:LISTED]:
        if images := [inside for inside in _visible(entry) if _is_image(inside)]:
            images[0].read_range(0, 16)
            return f"{counted(len(entries), 'folder')}, such as {entry.name} with {counted(len(images), 'image')}"
    raise FileNotFoundError(
        f"no image in {path}, nor in its first {min(LISTED, len(entries))} folders: expected files ending in "
        f"{', '.join(EXTENSIONS)}, directly in it or in one subfolder per class"
    )


def _visible(folder: BucketPath) -> list[BucketPath]:
    return [entry for entry in folder.iterdir() if not is_junk(entry.name)]


def _is_image(path: BucketPath) -> bool:
    return path.name.lower().endswith(EXTENSIONS)


def _tar(path: str) -> str:
    shards = find_shards(path, (".tar",), "tar file")
    header = bucket_path(shards[0]).read_range(0, tarfile.BLOCKSIZE)
    refuse_compressed(shards[0], header)
    try:
        first = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise ValueError(f"{shards[0]} is not a tar ({error}): copy it again") from None
    return f"{counted(len(shards), 'tar file')}; the first begins with {first.name}"


def _parquet(path: str) -> str:
    inner = os.path.join(path, "data")
    files = find_shards(inner if listing.is_dir(inner) else path, (".parquet",), "Parquet file")
    first = ParquetShards(files[0])
    images = f"{counted(len(first), 'image')} of {_classes(first)}"
    return f"{counted(len(files), 'Parquet file')}; the first has {images}"


def _tfds(path: str) -> str:
    folder, _, split = path.partition("@")
    try:
        info = json.loads((bucket_path(folder) / "dataset_info.json").read_bytes())
    except NotFound:
        raise FileNotFoundError(
            f"{folder} has no dataset_info.json, which each version of a TFDS data set has"
        ) from None
    splits = {entry["name"]: sum(map(int, entry.get("shardLengths", []))) for entry in info.get("splits", [])}
    if info.get("fileFormat") != "array_record":
        raise ValueError(
            f"{folder} is not in ArrayRecord format: prepare it with `tfds build --file_format=array_record`"
        )
    if (split or "train") not in splits:
        raise ValueError(f"{folder} has no split {split or 'train'!r}; it has {', '.join(splits)}")
    return f"{splits[split or 'train']:,} examples of {info.get('name', 'a TFDS data set')}"


_KINDS: dict[str, Callable[[str], str]] = {
    "array_record": _array_record,
    "folder": _folder,
    "latents": _latents,
    "parquet": _parquet,
    "tar": _tar,
    "tfds": _tfds,
}


def _other_source(place: BucketPath, source: str) -> str | None:
    """The kind of source that the files directly in a folder are for, if it is another one."""
    names = [entry.name for entry in _visible(place)]
    if INDEX in names:
        found = "array_record"
    elif "dataset_info.json" in names:
        found = "tfds"
    else:
        endings = (os.path.splitext(name)[1].lower() for name in names)
        found = next((OTHER_SOURCES[ending] for ending in endings if ending in OTHER_SOURCES), None)
        if found is None and any(name.lower().endswith(EXTENSIONS) for name in names):
            found = "folder"
    return found if found != source else None
