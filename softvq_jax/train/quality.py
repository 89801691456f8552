"""FID during training: what `tools.evaluate` measures, by the same code, of the averaged weights on a schedule."""

import pathlib
import tempfile

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from softvq_jax.evaluate import evaluation
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluation import Side
from softvq_jax.evaluate.features import FeatureExtractor
from softvq_jax.evaluate.images import SourceImages, open_images
from softvq_jax.evaluate.measure import Subject, measure
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.records import Records
from softvq_jax.evaluate.statistics import has_images, read_statistics
from softvq_jax.evaluate.subjects import ImageSet
from softvq_jax.train.data import Data
from softvq_jax.train.pretrained import MissingWeights
from softvq_jax.weights import files
from softvq_jax.weights.inception import WEIGHTS_SOURCE, load_inception

RETURNED = ("fid", "sfid", "is_mean")


class Quality:
    """The reference of a run, and the network that compares with it.

    The training pipeline reads on meanwhile: this has readers of its own.

    Attributes:
      held_out: the run's held-out images; None where its samples are latents.
      extractor: the FID network on all devices.
      devices: what it runs on.

    Raises:
      MissingWeights: the FID network's.
      FileNotFoundError, ValueError: `fid.reference` is not there, or is not images or statistics.
    """

    def __init__(self, config: ConfigDict, data: Data, workdir: pathlib.Path):
        self.config, self.workdir, self.devices = config.fid, workdir, LocalDevices()
        try:
            self.extractor = FeatureExtractor(*load_inception(config.fid.weights), devices=self.devices)
        except FileNotFoundError as error:
            raise MissingWeights(
                f"missing: the FID network, which config.fid.weights={config.fid.weights!r} names.\n"
                f"  why: {error}\n"
                f"  where it comes from: {WEIGHTS_SOURCE}\n"
                "  where to put it: anywhere, with --config.fid.weights=/path/to/the/file\n"
                "  to train without FID: --config.fid.every_steps=0"
            ) from error
        self.held_out = None
        if data.image_size is not None:
            self.held_out = SourceImages(data.held_out, data.image_size, config.fid.num_images, "held-out images")
        self._images, self._reference = self.held_out, None
        if name := config.fid.reference:
            self._images = open_images(name, data.image_size) if has_images(name) else None
            if self._images is None:
                self._reference = Side.of_statistics("reference", read_statistics(name))
        elif self.held_out is None:
            raise ValueError("fid.reference is empty, and the held-out samples are latents: name images or statistics")

    def __call__(
        self, step: int, samples: Subject, protocol: str, codebook_size: int | None = None
    ) -> dict[str, float]:
        """Measures samples of a step, and writes `evaluations/step_.../evaluation.json`; called by all processes.

        Args:
          codebook_size: of the tokenizer that is measured, if one is.

        Returns:
          `RETURNED` of the protocol's metrics, those that could be computed.
        """
        values = np.full(len(RETURNED), np.nan)
        reference = None if self._images is None else ImageSet(self._images, self.extractor)
        with tempfile.TemporaryDirectory(dir=self.workdir, prefix="measuring_") as folder:
            if self._reference is None:
                self._reference = self._of_statistics_alone(reference, pathlib.Path(folder, "reference"))
            rows = self._measured(samples, pathlib.Path(folder, "samples"))
            if rows is not None:
                sides = Side.of_records("samples", rows), self._reference
                details = evaluation.details(reference, samples)
                report = evaluation.report(PROTOCOLS[protocol], *sides, details, codebook_size=codebook_size)
                values = np.array([report["metrics"].get(name, np.nan) for name in RETURNED])
                out = self.workdir / "evaluations" / f"step_{step:07d}"
                out.mkdir(parents=True, exist_ok=True)
                files.write_json(out / "evaluation.json", report)
        if jax.process_count() > 1:
            values = np.asarray(multihost_utils.broadcast_one_to_all(values.astype(np.float32)))
        return {name: float(value) for name, value in zip(RETURNED, values, strict=True) if np.isfinite(value)}

    def _of_statistics_alone(self, subject, folder):
        """The reference, measured once a run; of its rows only the statistics are kept."""
        logging.info("measuring the %d images that FID compares with", len(subject))
        rows = self._measured(subject, folder)
        if rows is None:
            return Side("reference", None, None, "")
        side = Side.of_records("reference", rows)
        return Side(side.name, None, side.statistics, side.fingerprint)

    def _measured(self, subject, folder):
        records = Records(folder, subject.about()) if jax.process_index() == 0 else None
        measure(subject, records, batch_size=self.devices.batch_size)
        return records
