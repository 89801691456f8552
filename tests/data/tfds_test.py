"""Reads a small TFDS data set that the test prepares; needs the `tfds` extra."""

import io
import os
import pathlib
import sys

import numpy as np
import pytest

from softvq_jax.data import tfds, workers
from softvq_jax.data.source import UnreadableImage
from tests.data.photographs import pixels, png


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

    class Tiny(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
                "label": tensorflow_datasets.features.ClassLabel(names=["cat", "dog"]),
            }
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=tensorflow_datasets.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples(range(5)), "validation": self._generate_examples(range(5, 8))}

        def _generate_examples(self, numbers):
            for number in numbers:
                yield number, {"image": io.BytesIO(png(number)), "label": number % 2}

    builder = Tiny(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


def assert_holds(split, numbers):
    assert split.class_names == ("cat", "dog")
    read = [split[i].read() for i in range(len(split))]
    found = []
    for image, label in read:
        number = next(n for n in numbers if np.array_equal(np.asarray(image), pixels(n)))
        assert label == number % 2
        found.append(number)
    assert sorted(found) == list(numbers)


def test_splits(prepared):
    assert_holds(tfds.TfdsSplit(prepared), range(5))
    assert_holds(tfds.TfdsSplit(f"{prepared}@validation"), range(5, 8))
    assert tfds.TfdsSplit(prepared).fingerprint() != tfds.TfdsSplit(f"{prepared}@validation").fingerprint()


def test_names_are_searched_in_the_data_folder(prepared, monkeypatch):
    import tensorflow_datasets

    builder = tensorflow_datasets.builder
    folder = os.path.dirname(os.path.dirname(prepared))
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda name: builder(name, data_dir=folder))
    assert_holds(tfds.TfdsSplit("tiny:1.0.0@validation"), range(5, 8))


def test_a_bucket_holds_the_same_examples(prepared, bucket, tmp_path, monkeypatch):
    from tests.data.buckets_test import upload  # imports jax, which the worker of another test must not

    monkeypatch.setenv("SOFTVQ_CACHE_DIR", str(tmp_path / "copies"))
    upload(pathlib.Path(prepared), bucket / "tiny")
    ours, theirs = (tfds.TfdsSplit(f"{folder}@validation") for folder in (bucket / "tiny", prepared))
    assert_holds(ours, range(5, 8))
    assert ours.fingerprint() == theirs.fingerprint() and ours.part_fingerprints == theirs.part_fingerprints


def _modules(image):
    image.read()
    return [name for name in ("jax", "tensorflow") if name in sys.modules]


def test_workers_read_without_jax_and_tensorflow(prepared):
    pool = workers.WorkerPool(_modules, 1)
    try:
        assert pool(tfds.TfdsSplit(prepared)[0]) == []
    finally:
        pool.close()


def test_not_prepared(tmp_path, monkeypatch):
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    builder = tensorflow_datasets.builder
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda name: builder(name, data_dir=tmp_path))
    with pytest.raises(
        ValueError, match=rf"'imagenet_v2' is not prepared in {tmp_path}.*: `tfds build imagenet_v2 --file"
    ):
        tfds.TfdsSplit("imagenet_v2")


def test_other_file_formats(prepared, monkeypatch):
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(prepared)
    builder.info.set_file_format("tfrecord", override=True, override_if_initialized=True)
    monkeypatch.setattr(tfds, "_builder", lambda dataset: builder)
    with pytest.raises(ValueError, match="not in ArrayRecord format: prepare it with `tfds build mine"):
        tfds.TfdsSplit("mine")


def test_unknown_split(prepared):
    with pytest.raises(ValueError, match="no split 'test'; it has train, validation"):
        tfds.TfdsSplit(f"{prepared}@test")


def test_a_broken_example_is_named(monkeypatch):
    class Broken:
        def __getitem__(self, i):
            raise RuntimeError("chunk data hash mismatch")

    monkeypatch.setattr(tfds, "_examples", lambda dataset, split: Broken())
    with pytest.raises(UnreadableImage, match="tiny@train example 3: RuntimeError: chunk data hash mismatch"):
        tfds.TfdsImage("tiny", "train", 3).read()


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match="tfds extra"):
        tfds.TfdsSplit("nothing-of-this-name")
