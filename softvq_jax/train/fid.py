"""Evaluates reconstructions or samples of the averaged weights during training, as `tools.evaluate` does."""

import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from softvq_jax.data.decoding import Decoding
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluated_set import EvaluatedSet, measure_set
from softvq_jax.evaluate.evaluator import evaluate
from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.evaluate.image_sets import SourceImages, open_images
from softvq_jax.evaluate.predictions import ImageSet
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.metrics.feature_statistics import has_images, read_statistics
from softvq_jax.metrics.metric import require
from softvq_jax.progress import StagedProgress
from softvq_jax.report import evaluation_pictures
from softvq_jax.storage import files
from softvq_jax.storage.paths import is_remote
from softvq_jax.train.agreement import agreed
from softvq_jax.train.evaluator import EvaluatedRun, Evaluation, Evaluator
from softvq_jax.train.task import Better, data_of
from softvq_jax.train.write_errors import writing
from softvq_jax.weights.pretrained import load_inception, missing

RETURNED: Mapping[str, Better] = {"fid": "lower", "sfid": "lower", "is_mean": "higher", "ssim_gauss": "higher"}
"""Keys of `evaluation.json` that become metrics of the run, and whether higher or lower values are better."""

UNFINISHED = "measuring_"  # prefix of the folders of row caches, which are removed after the evaluation
LOG_SECONDS = 30.0  # least time between two lines of progress


class Fid(Evaluator):
    """FID and related metrics of the averaged weights; writes `evaluations/step_.../`: `evaluation.json` and pictures.

    The reference is measured once. With `every_steps=0`, reconstructions are still evaluated after the last step, without
    the Inception network: PSNR, SSIM, codebook usage and pictures.

    Attributes:
      held_out: the held-out images; None if the samples of the run are latents.
      extractor: the Inception network on all devices; None if `every_steps` is 0.
      devices: where the networks run.

    Raises:
      MissingWeights: the weights of the Inception network are missing.
      FileNotFoundError, ValueError: the reference is missing or unusable, or there are fewer than two images.
    """

    def __init__(self, section: ConfigDict, run: EvaluatedRun):
        super().__init__(section, run)
        self.names = run.task.metric_names
        self.better = {self.names[name]: better for name, better in RETURNED.items() if name in self.names}
        self.devices, self.extractor, self._warned = LocalDevices(), None, set()
        if jax.process_index() == 0 and not is_remote(run.workdir):
            for folder in run.workdir.glob(f"{UNFINISHED}*"):  # left by a run that was killed
                shutil.rmtree(folder)
        if section.every_steps:
            self.extractor = FeatureExtractor(*_load_inception(section.weights), devices=self.devices)
        data = data_of(run.task)
        self.held_out = None
        if data.image_size is not None:
            count = section.num_images if self.extractor else run.config.evals.held_out.num_images
            decoding = Decoding.from_config(run.config.data)
            self.held_out = SourceImages(data.held_out, data.image_size, count, "held-out images", decoding)
        self._reference = self._open_reference(data.image_size) if self.extractor else self._held_out_set()

    def due(self, step: int) -> bool:
        return super().due(step) or (step == self.run.num_steps and self.held_out is not None and self._has_pairs())

    def __call__(self, state: Any, step: int) -> Evaluation:
        run = self.run
        params = run.on_host(state.ema)
        predictions = run.task.predictions(
            params, images=self.held_out, count=self.section.num_images, extractor=self.extractor, devices=self.devices
        )
        values = np.full(len(RETURNED), np.nan)
        with tempfile.TemporaryDirectory(dir=_folder_of_rows(run.workdir), prefix=UNFINISHED) as folder:
            options: dict[str, Any] = dict(
                folder=pathlib.Path(folder),
                batch_size=self.devices.batch_size,
                on_progress=StagedProgress(log=logging.info, seconds=LOG_SECONDS),
                on_batch=run.check_preemption,
            )
            if isinstance(self._reference, ImageSet):
                self._reference = measure_set("reference", self._reference, **options).without_rows()
            record = evaluate(
                predictions,
                self._reference,
                PROTOCOLS[run.task.protocol],
                codebook_size=run.task.codebook_size,
                **options,
            )
            if record is not None:
                self._warn(record.content["warnings"])
                values = np.array([record.metrics.get(name, np.nan) for name in RETURNED], np.float64)
            with agreed():
                if record is not None:  # in process 0
                    out = run.workdir / "evaluations" / f"step_{step:07d}"
                    with writing(out):
                        files.make_folder(out)
                        record.write(out, evaluation_pictures.draw(out, predictions, record.samples.require_rows()))
        if jax.process_count() > 1:
            values = np.asarray(multihost_utils.broadcast_one_to_all(values.astype(np.float32)))
        found = zip(RETURNED, values.tolist(), strict=True)
        return Evaluation({self.names[name]: value for name, value in found if np.isfinite(value)})

    def _has_pairs(self) -> bool:
        return PROTOCOLS[self.run.task.protocol].paired

    def _held_out_set(self):
        return None if self.held_out is None else ImageSet(self.held_out, self.extractor)

    def _open_reference(self, image_size):
        """Opens the reference: images to be measured, or the statistics of a file."""
        section = self.section
        require(section.num_images, 2, "FID (config.evals.fid.num_images)")
        if not section.reference and self.held_out is None:
            raise ValueError(
                "evals.fid.reference is empty, and the held-out samples are latents: name images or statistics"
            )
        images = self.held_out
        if section.reference:
            images = (
                open_images(section.reference, image_size, Decoding.from_config(self.run.config.data))
                if has_images(section.reference)
                else None
            )
        for measured in filter(None, (images, self.held_out)):
            require(len(measured), 2, f"FID with {measured.name}")
        if images is None:
            return EvaluatedSet.of_statistics("reference", read_statistics(section.reference))
        return ImageSet(images, self.extractor)

    def _warn(self, lines):
        """Logs each warning once per run."""
        for line in lines:
            if line not in self._warned:
                logging.warning("%s", line)
        self._warned.update(lines)


def _load_inception(name: str):
    try:
        return load_inception(name)
    except FileNotFoundError as error:
        raise missing("inception", name, error) from error


def _folder_of_rows(workdir: pathlib.Path) -> pathlib.Path | None:
    """Returns the workdir, or for one in a bucket None: the system's temporary folder. Rows are memory-mapped files."""
    return None if is_remote(workdir) else workdir
