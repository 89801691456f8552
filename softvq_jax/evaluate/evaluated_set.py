"""A measured set of images: its rows, its feature statistics and its fingerprints."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from softvq_jax.evaluate.measure import NotFinite, measure
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.metrics.feature_statistics import FeatureStatistics, Moments
from softvq_jax.metrics.metric import Counts, NoFeatures, NotMeasured
from softvq_jax.weights import fingerprints

OnProgress = Callable[[str, int, int, str], None]
"""Called with the current stage, the number of finished items, the number of all items, and the unit of the items."""


@dataclasses.dataclass(frozen=True)
class EvaluatedSet:
    """The measured reference or samples: rows of the images, feature statistics, or both.

    Attributes:
      name: `reference` or `samples`.
      predictions: the images; None if only statistics are given.
      rows_by_column: the measured rows of the images; None if only statistics are given or kept.
      statistics: feature statistics, of a file if one is given, else of the images; None without features.
      fingerprint: fingerprint of the images; None if only statistics are given.
      statistics_fingerprint: fingerprint of the arrays of the statistics file; None without a file.
      unreadable: descriptions of the images that could not be read; nothing counts them.
    """

    name: str
    predictions: Predictions | None = None
    rows_by_column: RowCache | None = None
    statistics: FeatureStatistics | None = None
    fingerprint: str | None = None
    statistics_fingerprint: str | None = None
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of_statistics(cls, name: str, statistics: FeatureStatistics) -> "EvaluatedSet":
        """Makes a set that has only the statistics of a file."""
        return cls(name, statistics=statistics, statistics_fingerprint=_statistics_fingerprint(statistics))

    @classmethod
    def of_rows(
        cls,
        name: str,
        predictions: Predictions,
        rows: RowCache,
        statistics: FeatureStatistics | None = None,
        on_progress: OnProgress = lambda *_: None,
    ) -> "EvaluatedSet":
        """Makes a set from measured images; computes their feature statistics unless those of a file are given."""
        fingerprint = fingerprints.of_images(rows["digest"])
        left_out = np.setdiff1d(np.arange(len(predictions)), rows.items).tolist()
        unreadable = tuple(predictions.unreadable.get(i, predictions.describe(i)) for i in left_out)
        if statistics is not None:
            digest = _statistics_fingerprint(statistics)
            return cls(name, predictions, rows, statistics, fingerprint, digest, unreadable)
        if "f2048" in rows:
            pool3, spatial = (
                Moments.from_rows(rows[column], stage_progress(on_progress, f"computing {kind} statistics of {name}"))
                for column, kind in (("f2048", "pool3"), ("sfid", "spatial"))
            )
            statistics = FeatureStatistics.from_moments(pool3, spatial)
        return cls(name, predictions, rows, statistics, fingerprint, unreadable=unreadable)

    def without_rows(self) -> "EvaluatedSet":
        """Returns the same set without its row cache, so that the cache's folder can be removed."""
        return dataclasses.replace(self, rows_by_column=None)

    @property
    def image_counts(self) -> Counts:
        """The number of readable images by name; empty if only statistics are given."""
        return {} if self.predictions is None else {self.name: len(self.predictions) - len(self.unreadable)}

    @property
    def statistics_counts(self) -> Counts:
        """The number of images that the feature statistics were computed from, by name."""
        if self.statistics_fingerprint is None:
            return self.image_counts
        return {f"{self.name} statistics": self.require_statistics().count}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the images and of the statistics file."""
        both = {self.name: self.fingerprint, f"{self.name} statistics": self.statistics_fingerprint}
        return {name: value for name, value in both.items() if value is not None}

    def rows(self, column: str) -> np.ndarray:
        """Returns a column of features; raises NotMeasured if only statistics are given, NoFeatures without the network."""
        rows = self.require_rows()
        if column not in rows:
            raise NoFeatures
        return rows[column]

    def require_rows(self) -> RowCache:
        """Returns the measured rows; raises NotMeasured if only statistics are given or kept."""
        if self.rows_by_column is None:
            raise NotMeasured(f"needs the images of the {self.name}, and there are only statistics")
        return self.rows_by_column

    def require_statistics(self) -> FeatureStatistics:
        """Returns the feature statistics; raises NoFeatures if there are none."""
        if self.statistics is None:
            raise NoFeatures
        return self.statistics


def _statistics_fingerprint(statistics):
    arrays = {name: getattr(statistics, name) for name in ("mu", "sigma", "mu_s", "sigma_s")}
    return fingerprints.of_weights({name: array for name, array in arrays.items() if array is not None})


def measure_set(
    name: str,
    predictions: Predictions,
    *,
    folder: pathlib.Path,
    batch_size: int,
    statistics: FeatureStatistics | None = None,
    on_progress: OnProgress = lambda *_: None,
    on_batch: Callable[[], None] = lambda: None,
) -> EvaluatedSet:
    """Measures all images of a set, with a row cache in `folder / name`; arguments as in `evaluate`.

    Returns:
      The set. In processes other than process 0 it has neither rows nor statistics.
    """
    main = jax.process_index() == 0
    rows = RowCache(folder / name, predictions.metadata()) if main else None
    show = functools.partial(on_progress, f"measuring {name}") if main else lambda *_: None

    def after_batch(done):
        show(done, len(predictions), "images")
        on_batch()

    show(0 if rows is None else rows.next_item, len(predictions), "images")
    try:
        measure(predictions, rows, batch_size=batch_size, on_batch=after_batch)
    except NotFinite as error:
        raise NotFinite(f"measuring {name}: {error}", error.network) from error
    except ValueError as error:
        raise ValueError(f"measuring {name}: {error}") from error
    if rows is None:
        return EvaluatedSet(name, predictions)
    return EvaluatedSet.of_rows(name, predictions, rows, statistics, on_progress)


def stage_progress(on_progress: OnProgress, stage: str) -> Callable[[int, int], None]:
    """The callback of one computation: reports its finished parts as progress of `stage`."""
    return lambda done, total: on_progress(stage, done, total, "parts")
