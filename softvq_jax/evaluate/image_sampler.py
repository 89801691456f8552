"""Draws sample i of a generator deterministically, independent of batch size, device and host."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from softvq_jax.data.source import digest
from softvq_jax.evaluate.devices import DeviceFunction, LocalDevices
from softvq_jax.generator import Generator
from softvq_jax.generators.files import stored_statistics
from softvq_jax.pixels import to_uint8
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import fingerprints

LABELS = ("uniform", "balanced")


def draw_labels(kind: str, count: int, num_classes: int, seed: int) -> np.ndarray:
    """Returns the classes of the samples, int32 `[count]`.

    "uniform" draws each label independently. "balanced" uses every class equally often (up to one), in random order,
    which lowers the FID of 50,000 ImageNet samples by about 0.1.
    """
    if kind not in LABELS:
        raise ValueError(f"labels are {kind!r}; expected one of {', '.join(LABELS)}")
    rng = np.random.default_rng(seed)
    labels = (
        rng.permutation(np.arange(count) % num_classes) if kind == "balanced" else rng.integers(num_classes, size=count)
    )
    return labels.astype(np.int32)


def open_generator(name: str, tokenizer: str) -> Generator:
    """Opens the generator `name`; if it has no latent statistics, it gets those of the tokenizer `tokenizer`.

    Raises:
      ValueError: neither of them has latent statistics.
    """
    return Generator.from_pretrained(name, statistics=stored_statistics(name) or tokenizer)


class ImageSampler:
    """Draws samples of a generator and decodes them with its tokenizer, on all devices of this process.

    Attributes:
      fingerprints: fingerprints of the weights of `generator` and `tokenizer`, and of `latent_statistics` of channels.
      labels: the class of each image.

    Raises:
      ValueError: the tokenizer cannot decode the generator's latents, a label is out of range, or the generator does not
        take an option.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        labels: np.ndarray,
        *,
        seed: int,
        options: Mapping[str, Any],
        devices: LocalDevices | None = None,
    ):
        """Creates a sampler; `labels[i]` is the class of image i, `options` are arguments of `Generator.sample`."""
        nets = {"generator": generator, "tokenizer": tokenizer}
        self.fingerprints = {name: fingerprints.of_weights(net.params) for name, net in nets.items()}
        statistics = generator.statistics
        if statistics is not None and statistics.channels is not None:  # results of older versions have no scalar ones
            self.fingerprints["latent_statistics"] = digest(map(repr, statistics.to_fields().values()), 16)
        generator.check_fits(tokenizer.config, self.fingerprints["tokenizer"])
        generator.check_labels(labels)
        generator.check_options(**options)
        self._generator, self._tokenizer, self.labels = generator, tokenizer, labels
        options = dict(options)

        def sample(params, indices, labels):  # not jitted: both networks jit their own methods
            generator.params, tokenizer.params = params["generator"], params["tokenizer"]
            key = jax.random.key(seed)  # here, for the mesh of the local devices instead of a training run's
            latents = generator.sample(labels, key=key, indices=indices, **options)
            images = tokenizer.decode_indices(latents) if generator.discrete else tokenizer.decode(latents)
            return {"images": images, "latents": latents}

        self._params = {name: net.params for name, net in nets.items()}
        self._sample = DeviceFunction(sample, self._params, devices)

    @property
    def image_size(self) -> int:
        return self._tokenizer.config.image_size

    @property
    def discrete(self) -> bool:
        """True if the generator samples indices of codes, False if it samples latents."""
        return self._generator.discrete

    @property
    def dtypes(self) -> dict[str, str]:
        """Types of the matmuls by network."""
        return {"generator": self._generator.config.dtype, "tokenizer": self._tokenizer.config.dtype}

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self._sample.devices.batch_size

    def __len__(self) -> int:
        return len(self.labels)

    def class_name(self, i: int) -> str:
        """Returns the name of the class of image `i`."""
        return self._generator.class_names[self.labels[i]]

    def load(self, params: Mapping) -> None:
        """Replaces the generator's weights by new ones of the same shapes, without compiling again."""
        self._params["generator"] = params
        self._sample.load(self._params)
        self.fingerprints["generator"] = fingerprints.of_weights(params)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images with numbers `indices` `[n]`, uint8 `[n, S, S, 3]`."""
        return self.with_latents(indices)[0]

    def with_latents(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images with numbers `indices` `[n]`, uint8 `[n, S, S, 3]`, and their latents `[n, L, D]` or
        indices `[n, C, L/C]`."""
        indices = np.asarray(indices, np.int32)
        rows = self._sample(indices, self.labels[indices])
        return to_uint8(np.asarray(rows["images"])), rows["latents"]
