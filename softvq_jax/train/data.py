"""The training samples and the held-out samples of a run."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.data.pipeline import Batches, eval_batches, train_batches
from softvq_jax.data.source import Source
from softvq_jax.data.sources import SOURCES, Subset, held_out_source, training_source
from softvq_jax.parallel.mesh import process_rows


@dataclasses.dataclass(frozen=True)
class Data:
    """The samples of a run.

    Attributes:
      source, held_out: the training samples and the held-out samples.
      image_size: side of the crops in pixels; None if the samples are latents.
      encoder: fingerprint of the tokenizer that encodes the samples on the fly; "" if there is none.
    """

    config: ConfigDict
    source: Source
    held_out: Source
    image_size: int | None
    encoder: str = ""

    @classmethod
    def open(cls, config: ConfigDict, image_size: int | None, encoder: str = "", source: Any = None) -> "Data":
        """Opens the samples that `config.data` names, or of a source that was given in their place.

        Raises:
          ValueError: they are latents, and the run needs images.
        """
        if image_size is not None and config.data.source == "latents":
            raise ValueError(
                "data.source='latents' is for generators; a tokenizer trains on images: set "
                f"data.source to one of {', '.join(name for name in ('embedded', *SOURCES) if name != 'latents')}"
            )
        training = training_source(config.data, source)
        return cls(config, training, held_out_source(config.data, image_size, source, training), image_size, encoder)

    def __len__(self) -> int:
        """Number of samples per epoch."""
        return len(self.source)

    @functools.cached_property
    def version(self) -> dict:
        """A JSON value that identifies the training samples: `{"fingerprint": ..., "parts": {name: ...}}`.

        The fingerprint changes with the samples, their order and their labels, as far as
        `Source.part_fingerprints` reflects them.
        It is computed once, at the start, so that a run that resumes detects a shard replaced in the meantime.
        """
        return {"fingerprint": self.source.fingerprint() + self.encoder, "parts": self.source.part_fingerprints}

    def train_batches(self, start_sample: int, mesh: Mesh) -> Batches:
        """Returns an endless iterator over batches (this process's rows) from the global sample `start_sample` on."""
        return self._train_batches(start_sample, process_rows(self.config.train.batch_size, mesh))

    def replicated_batches(self) -> Batches:
        """Returns batches from the start of the run, with all rows in every process."""
        return self._train_batches(0, None)

    def eval_batches(self, mesh: Mesh) -> Batches:
        """Returns batches (this process's rows) of the first `evals.held_out.num_images` held-out samples, once."""
        section = self.config.evals.held_out
        size = section.batch_size or self.config.train.batch_size
        return eval_batches(
            self.config.data,
            image_size=self.image_size,
            global_batch=size,
            rows=process_rows(size, mesh),
            source=Subset(self.held_out, np.arange(min(section.num_images, len(self.held_out)))),
        )

    def _train_batches(self, start_sample, rows):
        return train_batches(
            self.config.data,
            image_size=self.image_size,
            seed=self.config.seed,
            global_batch=self.config.train.batch_size,
            start_sample=start_sample,
            rows=rows,
            source=self.source,
        )
