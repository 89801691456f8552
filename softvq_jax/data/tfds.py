"""TensorFlow Datasets, read without TensorFlow: data sets prepared with `file_format="array_record"`."""

import dataclasses
import functools
import os
from typing import Any

from softvq_jax.data import source
from softvq_jax.storage import listing, mirror


@dataclasses.dataclass(frozen=True)
class TfdsImage(source.EncodedImage):
    """One example of a split."""

    dataset: str
    split: str
    position: int

    @property
    def where(self) -> str:
        return f"{self.dataset}@{self.split} example {self.position}"

    def load(self) -> tuple[bytes, int]:
        try:
            example = _examples(self.dataset, self.split)[self.position]
        except (RuntimeError, ValueError) as error:
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {error}") from None
        return example["image"], int(example["label"])


class TfdsSplit(source.Source):
    """A split of a data set with the features `image` and `label`.

    Args:
      name: `name[/config][:version]@split` in TFDS's data folder (TFDS_DATA_DIR), or `folder@split`, where `folder` holds
        a prepared version; the default split is `train`.

    Raises:
      ModuleNotFoundError: the `tfds` extra is not installed.
      ValueError: the data set is not prepared, not in ArrayRecord format, or lacks these features.
    """

    def __init__(self, name: str):
        self._dataset, _, split = name.partition("@")
        self._split = split or "train"
        self._info = _builder(self._dataset).info
        missing = {"image", "label"} - set(self._info.features)
        if missing:
            raise ValueError(f"TFDS data set {self._dataset!r} has no feature {' and no '.join(sorted(missing))}")
        self.class_names = tuple(self._info.features["label"].names)
        self._length = len(_examples(self._dataset, self._split))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> TfdsImage:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        return TfdsImage(self._dataset, self._split, i)

    def key(self, i: int) -> str:
        return str(i)

    @functools.cached_property
    def part_fingerprints(self) -> dict[str, str]:
        shards = map(str, self._info.splits[self._split].filepaths)
        return source.digests_of_files([*shards])

    def fingerprint(self) -> str:
        return source.digest([self._info.full_name, self._split, source.digest_of_fingerprints(self.part_fingerprints)])


@functools.cache
def _builder(dataset) -> Any:
    try:
        import tensorflow_datasets  # pyright: ignore[reportMissingImports] (extra)
    except ImportError as error:
        raise ModuleNotFoundError("data.source='tfds' needs the tfds extra: pip install 'softvq-jax[tfds]'") from error
    if listing.is_dir(dataset):  # a folder in a bucket is copied, because TFDS reads ArrayRecord files from disk only
        return tensorflow_datasets.builder_from_directory(os.fspath(mirror.local_folder(dataset)))
    return tensorflow_datasets.builder(dataset)


@functools.cache
def _examples(dataset, split):
    builder = _builder(dataset)
    from tensorflow_datasets import decode  # pyright: ignore[reportMissingImports] (extra)

    build = f"`tfds build {dataset} --file_format=array_record`"
    if not builder.info.splits:
        raise ValueError(
            f"TFDS data set {dataset!r} is not prepared in {builder.data_dir}: {build}, or set TFDS_DATA_DIR"
        )
    if split not in builder.info.splits:
        raise ValueError(f"TFDS data set {dataset!r} has no split {split!r}; it has {', '.join(builder.info.splits)}")
    try:
        return builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})
    except NotImplementedError as error:
        raise ValueError(f"TFDS data set {dataset!r} is not in ArrayRecord format: prepare it with {build}") from error
