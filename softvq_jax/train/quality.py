"""What `tools.evaluate` measures, by the same code, of the averaged weights: of reconstructions after the last step,
and with the FID network on a schedule."""

import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from softvq_jax.evaluate import evaluation
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluation import Side
from softvq_jax.evaluate.image_sets import SourceImages, open_images
from softvq_jax.evaluate.inception_features import FeatureExtractor
from softvq_jax.evaluate.measure import Subject, measure
from softvq_jax.evaluate.predictions import ImageSet
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.row_cache import Records
from softvq_jax.metrics.feature_statistics import has_images, read_statistics
from softvq_jax.metrics.sample_size import require
from softvq_jax.report import evaluation_pictures
from softvq_jax.train.data import Data
from softvq_jax.train.progress import duration
from softvq_jax.weights import files
from softvq_jax.weights.pretrained import load_inception, missing

RETURNED = ("fid", "sfid", "is_mean", "ssim_gauss")
UNFINISHED = "measuring_"  # folders of rows, gone when they have been measured
QUIET_SECONDS = 30.0  # at least, between two lines of progress


class Quality:
    """The reference of a run, and the network that compares with it.

    The training pipeline reads on meanwhile: this has readers of its own.

    Attributes:
      held_out: the run's held-out images, `fid.num_images` of them, without FID `eval.num_images`; None where its
        samples are latents.
      extractor: the FID network on all devices; None where `fid.every_steps` is 0.
      devices: what it runs on.
      on_batch: called after every batch, in all processes equally often; what it raises ends the measurement.

    Raises:
      MissingWeights: the FID network's.
      FileNotFoundError, ValueError: `fid.reference` is not there, or is not images or statistics; FID of fewer than two
        images.
    """

    def __init__(self, config: ConfigDict, data: Data, workdir: pathlib.Path):
        self.workdir, self.devices, self.extractor = workdir, LocalDevices(), None
        self.on_batch: Callable[[], None] = lambda: None
        if jax.process_index() == 0:
            for folder in workdir.glob(f"{UNFINISHED}*"):  # of a run that was killed while it measured
                shutil.rmtree(folder)
        if config.fid.every_steps:
            self.extractor = FeatureExtractor(*_load_inception(config.fid.weights), devices=self.devices)
        self.held_out = None
        if data.image_size is not None:
            count = config.fid.num_images if self.extractor else config.eval.num_images
            self.held_out = SourceImages(data.held_out, data.image_size, count, "held-out images")
        self._images, self._reference, self._warned = self.held_out, None, set()
        if self.extractor:
            self._open_reference(config.fid, data.image_size)

    def _open_reference(self, section, image_size):
        require(section.num_images, 2, "FID (config.fid.num_images)")
        if name := section.reference:
            self._images = open_images(name, image_size) if has_images(name) else None
            if self._images is None:
                self._reference = Side.of_statistics("reference", read_statistics(name))
        elif self.held_out is None:
            raise ValueError("fid.reference is empty, and the held-out samples are latents: name images or statistics")
        for images in filter(None, (self._images, self.held_out)):
            require(len(images), 2, f"FID with {images.name}")

    def __call__(
        self, step: int, samples: Subject, protocol: str, codebook_size: int | None = None
    ) -> dict[str, float]:
        """Measures samples of a step, and writes `evaluations/step_.../`: `evaluation.json` and pictures.

        Called by all processes.

        Args:
          codebook_size: of the tokenizer that is measured, if one is.

        Returns:
          `RETURNED` of the protocol's metrics, those that could be computed.
        """
        values = np.full(len(RETURNED), np.nan)
        reference = None if self._images is None else ImageSet(self._images, self.extractor)
        with tempfile.TemporaryDirectory(dir=self.workdir, prefix=UNFINISHED) as folder:
            if self._reference is None or self.extractor is None:
                self._reference = self._measured_reference(reference, pathlib.Path(folder, "reference"))
            rows = self._measured("samples", samples, pathlib.Path(folder, "samples"))
            if rows is not None:
                sides = Side.of_records("samples", rows), self._reference
                details = evaluation.details(reference, samples)
                report = evaluation.report(PROTOCOLS[protocol], *sides, details, codebook_size=codebook_size)
                self._warn(report["warnings"])
                values = np.array([report["metrics"].get(name, np.nan) for name in RETURNED], np.float64)
                out = self.workdir / "evaluations" / f"step_{step:07d}"
                out.mkdir(parents=True, exist_ok=True)
                report["pictures"] = evaluation_pictures.draw(out, samples, rows)
                files.write_json(out / "evaluation.json", report)
        if jax.process_count() > 1:
            values = np.asarray(multihost_utils.broadcast_one_to_all(values.astype(np.float32)))
        return {name: float(value) for name, value in zip(RETURNED, values, strict=True) if np.isfinite(value)}

    def _measured_reference(self, subject, folder):
        """For FID measured once a run; of its rows only the statistics are kept."""
        rows = self._measured("reference", subject, folder)
        if rows is None:
            return Side("reference", None, None, "")
        side = Side.of_records("reference", rows)
        return side if self.extractor is None else Side(side.name, None, side.statistics, side.fingerprint)

    def _measured(self, name, subject, folder):
        records = Records(folder, subject.about()) if jax.process_index() == 0 else None
        tell = _Lines(name, len(subject))

        def on_progress(done):
            tell(done)
            self.on_batch()

        measure(subject, records, batch_size=self.devices.batch_size, on_progress=on_progress)
        return records

    def _warn(self, lines):
        """Once a run each."""
        for line in lines:
            if line not in self._warned:
                logging.warning("%s", line)
        self._warned.update(lines)


class _Lines:
    """Tells in the log how far a measurement is, on process 0."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._began = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < QUIET_SECONDS or jax.process_index():
            return
        self._last, rate = now, done / (now - self._began)
        left = duration((self._total - done) / rate)
        logging.info("measuring %s: %d of %d images, %.3g images/s, %s left", self._what, done, self._total, rate, left)


def _load_inception(name: str):
    try:
        return load_inception(name)
    except FileNotFoundError as error:
        raise missing("inception", name, error) from error
