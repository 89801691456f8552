"""What can be measured: a set of images, pairs of images, a tokenizer's reconstructions."""

import numpy as np

from softvq_jax.evaluate import fingerprints, pixel
from softvq_jax.evaluate.devices import Rows
from softvq_jax.evaluate.features import FeatureExtractor
from softvq_jax.evaluate.images import FileImages, Images
from softvq_jax.evaluate.perceptual import PerceptualDistance
from softvq_jax.evaluate.reconstruction import Reconstructor


class ImageSet:
    """Images as they are; without an extractor only their digests."""

    def __init__(self, images: Images, extractor: FeatureExtractor | None):
        self.images, self._extractor = images, extractor

    def __len__(self) -> int:
        return len(self.images)

    def about(self) -> dict:
        network = self._extractor.fingerprint if self._extractor else None
        return {"images": about_images(self.images), "inception": network}

    def crop(self) -> str:
        return self.images.crop()

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.images.read(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        features = self._extractor(batch) if self._extractor else {}
        return {"digest": fingerprints.image_digests(batch), **features}


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
        self._originals, self._set, self._perceptual = originals, ImageSet(images, extractor), perceptual

    def __len__(self) -> int:
        return len(self._set)

    def about(self) -> dict:
        network = self._perceptual.fingerprint if self._perceptual else None
        return self._set.about() | {"originals": about_images(self._originals), "lpips": network}

    def crop(self) -> str:
        return self._set.crop()

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self._originals.read(start, stop), self._set.read(start, stop)

    def rows(self, batch: tuple[np.ndarray, np.ndarray]) -> Rows:
        originals, images = batch
        return self._set.rows(images) | pair_rows(originals, images, self._perceptual)

    def pictures(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Originals and reconstructions of some rows, uint8 `[len(rows), H, W, 3]` each."""
        pairs = [self.read(int(row), int(row) + 1) for row in rows]
        return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


class Reconstructions:
    """What a tokenizer makes of images, beside them; reconstructed on the fly."""

    def __init__(
        self,
        originals: Images,
        reconstruct: Reconstructor,
        extractor: FeatureExtractor | None,
        perceptual: PerceptualDistance | None,
    ):
        self._originals, self._reconstruct = originals, reconstruct
        self._extractor, self._perceptual = extractor, perceptual

    def __len__(self) -> int:
        return len(self._originals)

    def about(self) -> dict:
        networks = {"tokenizer": self._reconstruct, "inception": self._extractor, "lpips": self._perceptual}
        prints = {name: network.fingerprint if network else None for name, network in networks.items()}
        return {"originals": about_images(self._originals), **prints}

    def crop(self) -> str:
        return self._originals.crop()

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._originals.read(start, stop)

    def rows(self, batch: np.ndarray) -> Rows:
        images, latents_and_codes = self._reconstruct(batch)
        features = self._extractor(images) if self._extractor else {}
        measured = {"digest": fingerprints.image_digests(images), **features, **latents_and_codes}
        return measured | pair_rows(batch, images, self._perceptual)

    def pictures(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Originals and reconstructions of some rows, uint8 `[len(rows), H, W, 3]` each."""
        originals = np.concatenate([self.read(int(row), int(row) + 1) for row in rows])
        return originals, self._reconstruct(originals)[0]


def pair_rows(originals: np.ndarray, images: np.ndarray, perceptual: PerceptualDistance | None) -> Rows:
    """Every pixel metric of pairs, by the name it is reported under."""
    rows = {
        "psnr": pixel.psnr(originals, images),
        "ssim_gauss": pixel.ssim(originals, images, "gauss"),
        "ssim_uniform7": pixel.ssim(originals, images, "uniform7"),
        # What the released code calls SSIM: a data range of 2 on images in [0, 1].
        "ssim_uniform7_range2": pixel.ssim(originals, images, "uniform7", data_range=2 * 255),
    }
    return rows | ({"lpips": perceptual(originals, images)} if perceptual else {})


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
