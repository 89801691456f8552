"""What can be measured: a set of images, pairs of them, a tokenizer's reconstructions, a generator's samples."""

import numpy as np

from softvq_jax.evaluate.devices import Rows
from softvq_jax.evaluate.image_sampler import ImageSampler
from softvq_jax.evaluate.image_sets import FileImages, Images, take
from softvq_jax.evaluate.inception_features import FeatureExtractor
from softvq_jax.evaluate.perceptual import PerceptualDistance
from softvq_jax.evaluate.reconstructor import Reconstructor
from softvq_jax.metrics import image_quality
from softvq_jax.weights import fingerprints


class ImageSet:
    """Images as they are; without an extractor only their digests."""

    def __init__(self, images: Images, extractor: FeatureExtractor | None):
        self.images, self._extractor = images, extractor
        self.size = images.shape[:2]

    def __len__(self) -> int:
        return len(self.images)

    def about(self) -> dict:
        return {"images": about_images(self.images), "weights": _weights(inception=self._extractor)}

    def crop(self) -> str:
        return self.images.crop()

    def where(self, i: int) -> str:
        return self.images.where(i)

    def compute(self) -> dict[str, str]:
        return {}

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.images.read(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        return image_rows(batch, self._extractor)


class Pairs:
    """Reconstructions made elsewhere, each beside its original.

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

    def __len__(self) -> int:
        return len(self._set)

    def about(self) -> dict:
        weights = self._set.about()["weights"] | _weights(lpips=self._perceptual)
        return self._set.about() | {"originals": about_images(self.originals), "weights": weights}

    def crop(self) -> str:
        return self._set.crop()

    def where(self, i: int) -> str:
        return self._set.where(i)

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
    """What a tokenizer makes of images, beside them; reconstructed on the fly."""

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

    def __len__(self) -> int:
        return len(self.originals)

    def about(self) -> dict:
        weights = _weights(tokenizer=self._reconstruct, inception=self._extractor, lpips=self._perceptual)
        return {"originals": about_images(self.originals), "weights": weights}

    def crop(self) -> str:
        return self.originals.crop()

    def where(self, i: int) -> str:
        return f"the reconstruction of {self.originals.where(i)}"

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
    """What a generator draws, drawn on the fly; `settings` say how, as JSON values."""

    def __init__(self, sample: ImageSampler, settings: dict, extractor: FeatureExtractor | None):
        self._sample, self._settings, self._extractor = sample, settings, extractor
        self.size = (sample.image_size, sample.image_size)

    def __len__(self) -> int:
        return len(self._sample)

    def about(self) -> dict:
        weights = self._sample.fingerprints | _weights(inception=self._extractor)
        return {"sampling": self._settings, "weights": weights}

    def crop(self) -> str:
        return "none"

    def where(self, i: int) -> str:
        return f"sample {i}"

    def compute(self) -> dict[str, str]:
        return self._sample.dtypes

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        images, latents = self._sample.with_latents(batch)
        return image_rows(images, self._extractor) | {"latents": latents}


def image_rows(images: np.ndarray, extractor: FeatureExtractor | None) -> Rows:
    """Digests, and with an extractor features."""
    return {"digest": fingerprints.image_digests(images), **(extractor(images) if extractor else {})}


def pair_rows(originals: np.ndarray, images: np.ndarray, perceptual: PerceptualDistance | None) -> Rows:
    """Every pixel metric of pairs, by the name it is reported under."""
    rows = {
        "psnr": image_quality.psnr(originals, images),
        "ssim_gauss": image_quality.ssim(originals, images, "gauss"),
        "ssim_uniform7": image_quality.ssim(originals, images, "uniform7"),
        # What the released code calls SSIM: a data range of 2 on images in [0, 1].
        "ssim_uniform7_range2": image_quality.ssim(originals, images, "uniform7", data_range=2 * 255),
    }
    return rows | ({"lpips": perceptual(originals, images)} if perceptual else {})


def _weights(**networks) -> dict[str, str | None]:
    """Fingerprints by name; None for a network that is not there."""
    return {name: network.fingerprint if network else None for name, network in networks.items()}


def _lpips_type(perceptual: PerceptualDistance | None) -> dict[str, str]:
    return {"lpips": "float32"} if perceptual else {}


def about_images(images: Images) -> dict:
    """What identifies a set without reading it."""
    return {
        "name": images.name,
        "version": images.version(),
        "count": len(images),
        "size": list(images.shape),
        "crop": images.crop(),
    }


def check_pairs(originals: Images, images: Images) -> None:
    """Raises ValueError where image i of one cannot be the reconstruction of image i of the other."""
    if len(originals) != len(images):
        raise ValueError(
            f"{originals.name} has {len(originals)} images and {images.name} {len(images)}; pairs need equal counts"
        )
    if originals.shape != images.shape:
        raise ValueError(
            f"{originals.name} has images of {originals.shape[:2]} and {images.name} of {images.shape[:2]} pixels; "
            "pairs need equal sizes: --image_size centre-crops files"
        )
    if isinstance(originals, FileImages) and isinstance(images, FileImages):
        for i, (ours, theirs) in enumerate(zip(originals.stems, images.stems, strict=True)):
            if ours != theirs:
                raise ValueError(
                    f"file {i} is {ours!r} in {originals.name} and {theirs!r} in {images.name}; pairs need equal names"
                )
