"""A generator at work: image i of a set of samples, whatever its batch, device or host."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from softvq_jax.evaluate import fingerprints
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.pixel import to_uint8
from softvq_jax.generator import Generator
from softvq_jax.tokenizer import Tokenizer

LABELS = ("uniform", "balanced")


def draw_labels(kind: str, count: int, num_classes: int, seed: int) -> np.ndarray:
    """`[count]` int32 classes of the samples.

    "uniform" draws each independently; "balanced" has every class equally often (up to one), in random order, which
    lowers the FID of 50,000 ImageNet samples by about 0.1.
    """
    if kind not in LABELS:
        raise ValueError(f"labels are {kind!r}; expected one of {', '.join(LABELS)}")
    rng = np.random.default_rng(seed)
    labels = (
        rng.permutation(np.arange(count) % num_classes) if kind == "balanced" else rng.integers(num_classes, size=count)
    )
    return labels.astype(np.int32)


class ImageSampler:
    """Samples of a generator, decoded by its tokenizer, on all devices of this process.

    Attributes:
      fingerprints: of the weights, by name: `generator` and `tokenizer`.

    Raises:
      ValueError: the tokenizer cannot decode the generator's latents.
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
        """`labels[i]` is the class of image i; `options` are `Generator.sample`'s further arguments."""
        generator.check_fits(tokenizer.config.num_latent_tokens, tokenizer.config.latent_dim)
        self._devices = devices or LocalDevices()
        nets = {"generator": generator, "tokenizer": tokenizer}
        self.fingerprints = {name: fingerprints.of_weights(net.params) for name, net in nets.items()}
        generator.params, tokenizer.params = self._devices.copy(generator.params), self._devices.copy(tokenizer.params)
        self._generator, self._tokenizer, self._labels = generator, tokenizer, labels
        self._key, self._options = jax.random.key(seed), dict(options)

    def __len__(self) -> int:
        return len(self._labels)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Images `indices` `[n]` as uint8 `[n, S, S, 3]`."""

        def sample(indices, labels):
            latents = self._generator.sample(labels, key=self._key, indices=indices, **self._options)
            return {"images": self._tokenizer.decode(latents)}

        indices = np.asarray(indices, np.int32)
        return to_uint8(self._devices.map(sample, indices, self._labels[indices])["images"])
