"""Evaluates predictions against a reference: measures all images, computes metrics, and records their settings.

`tools.evaluate` and training both call `evaluate`.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping

import jax

from softvq_jax.evaluate.evaluated_set import EvaluatedSet, OnProgress, measure_set
from softvq_jax.evaluate.numbers import NEEDS
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.evaluate.protocols import Protocol
from softvq_jax.evaluate.record import EvaluationRecord
from softvq_jax.metrics.feature_statistics import FeatureStatistics


def evaluate(
    predictions: Predictions,
    reference: Predictions | EvaluatedSet | None,
    protocol: Protocol,
    *,
    folder: pathlib.Path,
    batch_size: int,
    statistics: FeatureStatistics | None = None,
    codebook_size: int | None = None,
    needs: Mapping[str, str] = NEEDS,
    on_progress: OnProgress = lambda *_: None,
    on_batch: Callable[[], None] = lambda: None,
) -> EvaluationRecord | None:
    """Evaluates predictions against a reference. Called by all processes; each host measures its share of the images.

    Args:
      predictions: the images to evaluate.
      reference: the reference images, or a set that was measured before; None if only `statistics` are given.
      protocol: the metrics and their settings.
      folder: folder for the row caches, from which an interrupted evaluation resumes.
      batch_size: images per host and batch.
      statistics: feature statistics of the reference, from a file; None computes them from the images.
      codebook_size: codebook size of the evaluated tokenizer; None without a codebook.
      needs: why metrics are absent without each network, like `NEEDS`.
      on_progress: called on process 0.
      on_batch: called after every batch of images, equally often in all processes; an exception from it ends the
        evaluation.

    Returns:
      The results on process 0, None in the other processes.

    Raises:
      NotFinite: a network returns values that are not finite.
      ValueError: `folder` holds rows of another evaluation, images cannot be read, or a metric is not finite.
    """
    measure_named = functools.partial(
        measure_set, folder=folder, batch_size=batch_size, on_progress=on_progress, on_batch=on_batch
    )
    if reference is None:
        if statistics is None:
            raise ValueError("there is no reference: give its images or its statistics")
        reference = EvaluatedSet.of_statistics("reference", statistics)
    elif not isinstance(reference, EvaluatedSet):
        reference = measure_named("reference", reference, statistics=statistics)
    samples = measure_named("samples", predictions)
    if jax.process_index():
        return None
    return EvaluationRecord.of_sets(protocol, samples, reference, codebook_size, needs, on_progress)
