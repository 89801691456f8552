"""Opens the data source of a config, and splits it into training and held-out images."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from softvq_jax.data import source
from softvq_jax.data.array_record import ArrayRecordShards
from softvq_jax.data.embedded import EmbeddedPhotographs, HeldOutPhotographs
from softvq_jax.data.folder import ImageFolder
from softvq_jax.data.latents import LatentShards
from softvq_jax.data.tar import TarShards
from softvq_jax.data.tfds import TfdsSplit

SOURCES: dict[str, Callable[[str], source.Source]] = {  # by `data.source`; takes `data.path` or `data.eval_path`
    "array_record": ArrayRecordShards,
    "folder": ImageFolder,
    "latents": LatentShards,
    "tar": TarShards,
    "tfds": TfdsSplit,
}


class Part(source.Source):
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
    def parts(self) -> dict[str, str]:
        """The parts of the whole source."""
        return self._whole.parts

    def fingerprint(self) -> str:
        return source.digest([self._whole.fingerprint(), hashlib.sha256(self._items.tobytes()).hexdigest()])


def training_source(config: Mapping) -> source.Source:
    """Returns the images to train on, for a `data` section of the config; see `config.default_data_config`."""
    _check(config)
    if config["source"] == "embedded":
        return EmbeddedPhotographs(config["holdout"])
    whole = SOURCES[config["source"]](config["path"])
    return whole if config["eval_path"] or not config["holdout"] else part(whole, config["holdout"], held_out=False)


def held_out_source(config: Mapping, image_size: int | None) -> source.Source:
    """Returns the held-out images; `training_source` contains none of them.

    Args:
      config: a `data` section.
      image_size: side of the crops in pixels, None for latents; the embedded held-out squares depend on it.
    """
    _check(config)
    if not config["eval_path"] and not config["holdout"]:
        raise ValueError("nothing is held out: set data.eval_path, or data.holdout to a share above 0")
    if config["source"] == "embedded":
        return HeldOutPhotographs(config["holdout"], side_of_crops(image_size))
    if config["eval_path"]:
        return SOURCES[config["source"]](config["eval_path"])
    return part(SOURCES[config["source"]](config["path"]), config["holdout"], held_out=True)


def part(whole: source.Source, share: float, *, held_out: bool) -> Part:
    """Returns the held-out `share` of the images, or all others; the random choice depends only on their keys."""
    count = max(1, round(share * len(whole)))
    if count >= len(whole):
        raise ValueError(
            f"cannot hold out {share:.0%} of {len(whole)} images: set data.eval_path, or data.holdout to 0"
        )
    order = np.argsort([_hash(whole.key(i)) for i in range(len(whole))], kind="stable")
    return Part(whole, np.sort(order[:count] if held_out else order[count:]))


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
