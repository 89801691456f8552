"""Predictions to evaluate: images, pairs of images, reconstructions by a tokenizer, or samples of a generator."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from softvq_jax.evaluate.devices import Rows
from softvq_jax.evaluate.extractors import FeatureExtractor, PerceptualDistance
from softvq_jax.evaluate.image_sampler import ImageSampler
from softvq_jax.evaluate.image_sets import FileImages, Images, take
from softvq_jax.evaluate.reconstructor import Reconstructor
from softvq_jax.metrics.image_quality import PAIR_METRICS
from softvq_jax.weights import fingerprints


@runtime_checkable
class Predictions(Protocol):
    """A set of images to evaluate, and the rows to measure.

    Attributes:
      size: height and width of the images.
      unreadable: why images that were read so far cannot be read, by index; they are left out of every measure.
    """

    size: tuple[int, int]

    @property
    def unreadable(self) -> Mapping[int, str]: ...

    def __len__(self) -> int: ...

    def metadata(self) -> dict:
        """Returns JSON values that identify the rows, compared on resuming; `weights` are fingerprints by network."""
        ...

    def crop(self) -> str:
        """Returns how the images were cropped."""
        ...

    def describe(self, i: int) -> str:
        """Returns a description of image `i` for messages."""
        ...

    def compute(self) -> dict[str, str]:
        """Returns the types of the matmuls of the networks that make the images, by network."""
        ...

    def read(self, start: int, stop: int) -> Any:
        """Reads the inputs of images `start` to `stop - 1`; called in a thread, ahead of `rows`."""
        ...

    def rows(self, batch: Any) -> Rows:
        """Measures a batch that `read` returned; returns one row for each image in every column."""
        ...


class ImageSet:
    """Images that are evaluated as they are. Without an extractor, only their digests are measured."""

    def __init__(self, images: Images, extractor: FeatureExtractor | None):
        self.images, self._extractor = images, extractor
        self.size = images.shape[:2]

    @property
    def unreadable(self) -> Mapping[int, str]:
        return self.images.unreadable

    def __len__(self) -> int:
        return len(self.images)

    def metadata(self) -> dict:
        return {"images": image_metadata(self.images), "weights": _weights(inception=self._extractor)}

    def crop(self) -> str:
        return self.images.crop()

    def describe(self, i: int) -> str:
        return self.images.describe(i)

    def compute(self) -> dict[str, str]:
        return {}

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.images.read(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        return image_rows(batch, self._extractor)


class Pairs:
    """Reconstructions made by another program, each with its original.

    Raises:
      ValueError: the two sets differ in count, size or file names.
    """

    def __init__(
        self,
        originals: Images,
        images: Images,
        extractor: FeatureExtractor | None,
        perceptual: PerceptualDistance | None,
    ):
        check_pairs(originals, images)
        self.originals, self._set, self._perceptual = originals, ImageSet(images, extractor), perceptual
        self.size = self._set.size

    @property
    def unreadable(self) -> Mapping[int, str]:
        return {**self.originals.unreadable, **self._set.unreadable}

    def __len__(self) -> int:
        return len(self._set)

    def metadata(self) -> dict:
        weights = self._set.metadata()["weights"] | _weights(lpips=self._perceptual)
        return self._set.metadata() | {"originals": image_metadata(self.originals), "weights": weights}

    def crop(self) -> str:
        return self._set.crop()

    def describe(self, i: int) -> str:
        return self._set.describe(i)

    def compute(self) -> dict[str, str]:
        return _lpips_type(self._perceptual)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self.originals.read(start, stop), self._set.read(start, stop)

    def rows(self, batch: tuple[np.ndarray, np.ndarray]) -> Rows:
        originals, images = batch
        return self._set.rows(images) | pair_rows(originals, images, self._perceptual)

    def pictures(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Originals and reconstructions of some rows, uint8 `[len(rows), H, W, 3]` each."""
        return take(self.originals, rows), take(self._set.images, rows)


class Reconstructions:
    """Reconstructions by a tokenizer, made on the fly, each with its original."""

    def __init__(
        self,
        originals: Images,
        reconstruct: Reconstructor,
        extractor: FeatureExtractor | None,
        perceptual: PerceptualDistance | None,
    ):
        self.originals, self._reconstruct = originals, reconstruct
        self._extractor, self._perceptual = extractor, perceptual
        self.size = originals.shape[:2]

    @property
    def unreadable(self) -> Mapping[int, str]:
        return self.originals.unreadable

    def __len__(self) -> int:
        return len(self.originals)

    def metadata(self) -> dict:
        weights = _weights(tokenizer=self._reconstruct, inception=self._extractor, lpips=self._perceptual)
        return {"originals": image_metadata(self.originals), "weights": weights}

    def crop(self) -> str:
        return self.originals.crop()

    def describe(self, i: int) -> str:
        return f"the reconstruction of {self.originals.describe(i)}"

    def compute(self) -> dict[str, str]:
        return {"tokenizer": self._reconstruct.config.dtype} | _lpips_type(self._perceptual)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.originals.read(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        images, latents_and_codes = self._reconstruct(batch)
        measured = image_rows(images, self._extractor) | latents_and_codes
        return measured | pair_rows(batch, images, self._perceptual)

    def pictures(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Originals and reconstructions of some rows, uint8 `[len(rows), H, W, 3]` each."""
        originals = take(self.originals, rows)
        return originals, self._reconstruct(originals)[0]


class Samples:
    """Samples of a generator, drawn on the fly; `settings` are the sampling settings as JSON values."""

    def __init__(self, sampler: ImageSampler, settings: dict, extractor: FeatureExtractor | None):
        self._sampler, self._settings, self._extractor = sampler, settings, extractor
        self.size = (sampler.image_size, sampler.image_size)

    @property
    def unreadable(self) -> Mapping[int, str]:
        return {}

    def __len__(self) -> int:
        return len(self._sampler)

    def metadata(self) -> dict:
        weights = self._sampler.fingerprints | _weights(inception=self._extractor)
        return {"sampling": self._settings, "weights": weights}

    def crop(self) -> str:
        return "none"

    def describe(self, i: int) -> str:
        return f"sample {i}"

    def compute(self) -> dict[str, str]:
        return self._sampler.dtypes

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        images, latents = self._sampler.with_latents(batch)
        rows = image_rows(images, self._extractor)
        return rows if self._sampler.discrete else rows | {"latents": latents}  # indices have no statistics


def image_rows(images: np.ndarray, extractor: FeatureExtractor | None) -> Rows:
    """Returns digests of images and, with an extractor, their features."""
    return {"digest": fingerprints.image_digests(images), **(extractor(images) if extractor else {})}


def pair_rows(originals: np.ndarray, images: np.ndarray, perceptual: PerceptualDistance | None) -> Rows:
    """Returns all pixel metrics of pairs of images and, with `perceptual`, LPIPS."""
    rows = {name: metric(originals, images) for name, metric in PAIR_METRICS.items()}
    return rows | ({"lpips": perceptual(originals, images)} if perceptual else {})


def _weights(**networks) -> dict[str, str | None]:
    """Returns fingerprints by network; None for a network that is not used."""
    return {name: network.fingerprint if network else None for name, network in networks.items()}


def _lpips_type(perceptual: PerceptualDistance | None) -> dict[str, str]:
    return {"lpips": "float32"} if perceptual else {}


def image_metadata(images: Images) -> dict:
    """Returns JSON values that identify a set of images, without reading them."""
    return {
        "name": images.name,
        "version": images.version(),
        "count": len(images),
        "size": list(images.shape),
        "crop": images.crop(),
    }


def check_pairs(originals: Images, images: Images) -> None:
    """Raises ValueError if image i of one set cannot be the reconstruction of image i of the other."""
    if len(originals) != len(images):
        raise ValueError(
            f"{originals.name} has {len(originals)} images and {images.name} {len(images)}; pairs need equal counts"
        )
    if originals.shape != images.shape:
        raise ValueError(
            f"{originals.name} has images of {originals.shape[:2]} and {images.name} of {images.shape[:2]} pixels; "
            "pairs need equal sizes: --image_size center-crops files"
        )
    if isinstance(originals, FileImages) and isinstance(images, FileImages):
        for i, (ours, theirs) in enumerate(zip(originals.stems, images.stems, strict=True)):
            if ours != theirs:
                raise ValueError(
                    f"file {i} is {ours!r} in {originals.name} and {theirs!r} in {images.name}; pairs need equal names"
                )
