"""The samples of a run: what it trains on and what is held out, opened once."""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from softvq_jax.data.pipeline import Batches, eval_batches, train_batches
from softvq_jax.data.source import Source
from softvq_jax.data.sources import Part, held_out_source, training_source


@dataclasses.dataclass(frozen=True)
class Data:
    """A run's samples.

    Attributes:
      source, held_out: what is trained on and what is evaluated on.
      image_size: side of the crops in pixels; None where the samples are latents.
      encoder: fingerprint of the tokenizer that encodes them on the fly, if one does.
    """

    config: ConfigDict
    source: Source
    held_out: Source
    image_size: int | None
    encoder: str = ""

    @classmethod
    def open(cls, config: ConfigDict, image_size: int | None, encoder: str = "") -> "Data":
        """Opens what `config.data` names."""
        held_out = held_out_source(config.data, image_size)
        return cls(config, training_source(config.data), held_out, image_size, encoder)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes when the samples to train on, their order or their labels do."""
        return self.source.fingerprint() + self.encoder

    def train_batches(self, start_sample: int) -> Batches:
        """Endless batches from the global sample `start_sample` on."""
        return train_batches(
            self.config.data,
            seed=self.config.seed,
            global_batch=self.config.train.batch_size,
            start_sample=start_sample,
            source=self.source,
            **self._common(),
        )

    def same_everywhere(self) -> Batches:
        """The run's first batches, every one whole in every process."""
        return train_batches(
            self.config.data,
            seed=self.config.seed,
            global_batch=self.config.train.batch_size,
            source=self.source,
            image_size=self.image_size,
        )

    def eval_batches(self) -> Batches:
        """The first `eval.num_images` held-out samples, once."""
        section = self.config.eval
        return eval_batches(
            self.config.data,
            global_batch=section.batch_size or self.config.train.batch_size,
            source=Part(self.held_out, np.arange(min(section.num_images, len(self.held_out)))),
            **self._common(),
        )

    def _common(self) -> dict[str, Any]:
        return dict(image_size=self.image_size, process_index=jax.process_index(), process_count=jax.process_count())
