"""Opens the data source of a config, and splits it into training and held-out images."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from softvq_jax.data import source
from softvq_jax.data.array_record import ArrayRecordShards
from softvq_jax.data.embedded import EmbeddedPhotographs, HeldOutPhotographs
from softvq_jax.data.folder import ImageFolder, warn_once
from softvq_jax.data.latents import LatentShards
from softvq_jax.data.parquet import ParquetShards
from softvq_jax.data.sequence import SequenceSource, import_source
from softvq_jax.data.tar import TarShards
from softvq_jax.data.tfds import TfdsSplit

SOURCES: dict[str, Callable[[str], source.Source]] = {  # by `data.source`; takes `data.path` or `data.eval_path`
    "array_record": ArrayRecordShards,
    "folder": ImageFolder,
    "latents": LatentShards,
    "parquet": ParquetShards,
    "python": lambda path: SequenceSource(import_source(path), name=path),
    "tar": TarShards,
    "tfds": TfdsSplit,
}


class Subset(source.Source):
    """A subset of the items of a source, in the source's order."""

    def __init__(self, whole: source.Source, items: np.ndarray):
        self._whole, self._items = whole, items
        self.class_names = whole.class_names

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> source.Reference:
        return self._whole[int(self._items[i])]

    def key(self, i: int) -> str:
        return self._whole.key(int(self._items[i]))

    @property
    def part_fingerprints(self) -> dict[str, str]:
        """The fingerprints of the whole source."""
        return self._whole.part_fingerprints

    def fingerprint(self) -> str:
        return source.digest([self._whole.fingerprint(), hashlib.sha256(self._items.tobytes()).hexdigest()])


def open_source(config: Mapping, path: str, label_file: str = "") -> source.Source:
    """Opens the images at `path` as the source `config["source"]`.

    Args:
      config: a `data` section; only `source` is required, and `classes` is used for a folder.
      path: path of the images, in the form that the source expects.
      label_file: path of a file with the class of each image, for a folder; see `labels.LabelFile`.

    Raises:
      FileNotFoundError: there are no images.
      ValueError: the images have another layout than the source expects.
    """
    kind = config["source"]
    if kind == "folder":
        return ImageFolder(path, config.get("classes", "auto"), label_file)
    if label_file or config.get("classes", "auto") != "auto":
        raise ValueError(f"data.source={kind!r} has its own classes: data.classes and label files are for 'folder'")
    return SOURCES[kind](path)


def training_source(config: Mapping, given: Any = None) -> source.Source:
    """Returns the images to train on.

    Args:
      config: a `data` section of the config; see `config.default_data_config`.
      given: a source, or a Python sequence or function (`SequenceSource`), in place of the one in the config.
    """
    if given is not None:
        whole = as_source(given)
        if config["num_workers"] and isinstance(whole, SequenceSource):
            whole.check_workers()
    else:
        _check(config)
        if config["source"] == "embedded":
            return EmbeddedPhotographs(config["holdout"])
        whole = open_source(config, config["path"], config.get("label_file", ""))
    return whole if config["eval_path"] or not config["holdout"] else part(whole, config["holdout"], held_out=False)


def held_out_source(
    config: Mapping, image_size: int | None, given: Any = None, training: source.Source | None = None
) -> source.Source:
    """Returns the held-out images; `training_source` contains none of them.

    Args:
      config: a `data` section.
      image_size: side of the crops in pixels, None for latents; the embedded held-out squares depend on it.
      given: the source that was given to `training_source`.
      training: the training images; the classes of `data.eval_path` get the same numbers.
    """
    if given is None:
        _check(config)
    if not config["eval_path"] and not config["holdout"]:
        raise ValueError("nothing is held out: set data.eval_path, or data.holdout to a share above 0")
    if given is None and config["source"] == "embedded":
        return HeldOutPhotographs(config["holdout"], side_of_crops(image_size))
    if config["eval_path"]:
        held_out = open_source(config, config["eval_path"], config.get("eval_label_file", ""))
        if training is not None:
            number_as(held_out, training.class_names)
        return held_out
    whole = as_source(given) if given is not None else open_source(config, config["path"], config.get("label_file", ""))
    return part(whole, config["holdout"], held_out=True)


def as_source(given: Any) -> source.Source:
    """Returns a source unchanged; wraps a Python sequence, or a function that returns one, in a `SequenceSource`."""
    return given if hasattr(given, "class_names") and hasattr(given, "fingerprint") else SequenceSource(given)


def number_as(held_out: source.Source, class_names: tuple[str, ...]) -> None:
    """Numbers the classes of the held-out images as in training, by their names."""
    if held_out.class_names == class_names:
        return
    unknown = sorted(set(held_out.class_names) - set(class_names))
    if not unknown and hasattr(held_out, "renumber"):
        held_out.renumber(class_names)  # type: ignore[attr-defined]
    elif held_out.class_names != class_names[: len(held_out.class_names)]:
        warn_once(
            f"the classes of data.eval_path are not those of data.path (such as {(unknown or held_out.class_names)[0]!r}): "
            "labels of held-out images mean something else than in training"
        )


def part(whole: source.Source, share: float, *, held_out: bool) -> Subset:
    """Returns the held-out `share` of the images, or all others; the random choice depends only on their keys."""
    count = max(1, round(share * len(whole)))
    if count >= len(whole):
        raise ValueError(
            f"cannot hold out {share:.0%} of {len(whole)} images: set data.eval_path, or data.holdout to 0"
        )
    order = np.argsort([_hash(whole.key(i)) for i in range(len(whole))], kind="stable")
    return Subset(whole, np.sort(order[:count] if held_out else order[count:]))


def side_of_crops(image_size: int | None) -> int:
    """Returns `image_size`; raises ValueError for None, which is allowed only for latents."""
    if image_size is None:
        raise ValueError("image_size is None, but the data are images: give the side of their crops in pixels")
    return image_size


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=7).digest())


def _check(config):
    name = config["source"]
    if name != "embedded" and name not in SOURCES:
        raise ValueError(f"data.source={name!r}: expected one of {', '.join(['embedded', *SOURCES])}")
    if name == "embedded" and (config["path"] or config["eval_path"]):
        raise ValueError(
            "data.source='embedded' takes no data.path or data.eval_path: its photographs come with scikit-image"
        )
    if name != "embedded" and not config["path"]:
        raise ValueError(f"data.source={name!r} needs data.path, the location of the training images")
    if not 0 <= config["holdout"] < 1:
        raise ValueError(f"data.holdout={config['holdout']}: expected a share of at least 0 and below 1")
