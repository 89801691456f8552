"""Evaluates predictions against a reference: measures all images, computes metrics, and records their settings.

`tools.evaluate` and training both call `evaluate`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from softvq_jax.evaluate import protocols
from softvq_jax.evaluate.measure import NotFinite, measure
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.evaluate.protocols import Protocol
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.metrics.codebook import CodebookUsage
from softvq_jax.metrics.feature_statistics import (
    BLOCK,
    FeatureStatistics,
    Moments,
    small_sample_warning,
    write_statistics,
)
from softvq_jax.metrics.image_quality import PAIR_METRICS
from softvq_jax.metrics.metric import Counts, NoFeatures, NotMeasured, TooFewImages
from softvq_jax.metrics.registry import METRICS
from softvq_jax.models.inception import FEATURES
from softvq_jax.weights import files, fingerprints

NEEDS = {"inception": "needs the Inception weights", "lpips": "needs the weights of LPIPS: of VGG16 and of the heads"}
"""Why metrics are absent without each network."""

NAMED_UNREADABLE = 5  # images in a warning; `evaluation.json` names all

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
                Moments.from_rows(rows[column], _stage(on_progress, f"computing {kind} statistics of {name}"))
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


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """The results of `evaluate`.

    Attributes:
      content: the content of `evaluation.json`: the metrics and everything they depend on, as JSON values.
      samples, reference: the two measured sets.
    """

    content: dict[str, Any]
    samples: EvaluatedSet
    reference: EvaluatedSet

    @property
    def metrics(self) -> dict[str, float | None]:
        """Numbers by name; None for an infinite PSNR."""
        return self.content["metrics"]

    def write(self, folder: pathlib.Path, pictures: Mapping, *, statistics: bool = False) -> None:
        """Writes `evaluation.json`.

        Args:
          folder: an existing folder.
          pictures: the images shown in the pictures in the same folder, from `report.evaluation_pictures.draw`.
          statistics: also write the feature statistics that were computed, as `samples.npz` and `reference.npz`.
        """
        for side in (self.samples, self.reference) if statistics else ():
            if side.statistics is not None and side.statistics_fingerprint is None:
                write_statistics(folder / f"{side.name}.npz", side.statistics)
        files.write_json(folder / "evaluation.json", self.content | {"pictures": pictures})


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
    return EvaluationRecord(
        _content(protocol, samples, reference, codebook_size, needs, on_progress), samples, reference
    )


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


def early_warnings(predictions: Predictions, reference: Predictions | None) -> list[str]:
    """Returns warnings that are known before anything is measured."""
    sizes = {"samples": predictions.size} | ({"reference": reference.size} if reference else {})
    lines = [_size_warning(sizes)]
    if predictions.metadata()["weights"]["inception"]:
        lines.insert(0, small_sample_warning(len(predictions), FEATURES["f2048"], "samples"))
    return [line for line in lines if line]


def distribution_metrics(
    protocol: Protocol,
    samples: EvaluatedSet,
    reference: EvaluatedSet,
    *,
    needs: Mapping[str, str] = NEEDS,
    on_progress: OnProgress = lambda *_: None,
) -> tuple[dict[str, float], dict[str, Counts], dict[str, str]]:
    """Computes the metrics of a protocol.

    Returns:
      The numbers by name, the images that each is computed from, and why the other metrics are absent.
    """
    values, counts, absent = {}, {}, {}
    for name, metric in METRICS.items():
        if name not in protocol.metrics and not metric.every_protocol:
            continue
        try:
            progress = _stage(on_progress, f"computing {metric.title}")
            found, used = metric.compute(samples, reference, protocol, progress)
        except NoFeatures:
            absent[name] = needs["inception"]
        except (NotMeasured, TooFewImages) as error:
            absent[name] = str(error)
        else:
            values |= found
            counts |= dict.fromkeys(found, used)
    return values, counts, absent


def _stage(on_progress, stage):
    return lambda done, total: on_progress(stage, done, total, "parts")


def pair_metrics(rows: RowCache) -> dict[str, float]:
    """Returns the means over the images of all measured pixel metrics and LPIPS.

    If pairs are equal, the mean PSNR is infinite, and the number of equal pairs and the mean PSNR of the others are
    returned too.
    """
    values = {}
    for name in (*PAIR_METRICS, "lpips"):
        if name in rows:
            column = rows[name]
            values[name] = float(np.mean(column, dtype=np.float64))
            if name == "psnr" and np.isposinf(column).any():
                values["equal_pairs"] = int(np.isposinf(column).sum())
                if values["equal_pairs"] < len(column):
                    values["psnr_differing"] = float(np.mean(column[~np.isposinf(column)], dtype=np.float64))
    return values


def codebook_usage(rows: RowCache, codebook_size: int) -> CodebookUsage:
    """Returns the usage of the measured codes."""
    codes = rows["codes"]
    usage = CodebookUsage(codes.shape[1], codebook_size)
    for start in range(0, len(rows), BLOCK):
        usage.update(codes[start : start + BLOCK])
    return usage


def latent_metrics(rows: RowCache) -> dict[str, float]:
    """Returns mean and standard deviation of all latent values, the `vq_mean` and `vq_std` of published weights."""
    moments = Moments(1)
    for start in range(0, len(rows), BLOCK):
        moments.update(rows["latents"][start : start + BLOCK].reshape(-1, 1))
    return {"latent_mean": float(moments.mean[0]), "latent_std": float(np.sqrt(moments.covariance(ddof=0)[0, 0]))}


def _content(protocol, samples, reference, codebook_size, needs, on_progress) -> dict:
    """Returns the content of `evaluation.json`; raises ValueError for a non-finite number except equal images' PSNR."""
    values, counts, absent = distribution_metrics(protocol, samples, reference, needs=needs, on_progress=on_progress)
    absent |= _absent_in(protocol)
    rows, usage = samples.require_rows(), None
    of_samples = pair_metrics(rows)
    if "codes" in rows:
        usage = codebook_usage(rows, codebook_size)
        of_samples |= {"codebook_usage": usage.usage, "perplexity": usage.perplexity}
    if "latents" in rows:
        of_samples |= latent_metrics(rows)
    if "psnr" in rows and "lpips" not in rows:
        absent["lpips"] = needs["lpips"]
    if "equal_pairs" in of_samples:
        absent["psnr"] = f"infinite: {of_samples['equal_pairs']:,} of {len(rows):,} images equal their originals"
    values, counts = values | of_samples, counts | dict.fromkeys(of_samples, samples.image_counts)
    for name in values.keys() - absent.keys():
        if not np.isfinite(values[name]):
            raise ValueError(f"{name} is {values[name]}: the rows in {rows.folder} are damaged; remove that folder")
    file_counts = {} if reference.statistics_fingerprint is None else reference.statistics_counts
    sources = _sources(samples, reference)
    return {
        "protocol": {**dataclasses.asdict(protocol), **protocols.COMMON, "settings": protocol.settings()},
        "counts": samples.image_counts | reference.image_counts | file_counts,
        "unreadable": {side.name: list(side.unreadable) for side in (samples, reference) if side.unreadable},
        "fingerprints": samples.fingerprints | reference.fingerprints,
        **sources,
        "metrics": {name: None if name in absent else value for name, value in values.items()},
        "metric_counts": counts,
        "absent": absent,
        "code_profile": None if usage is None else usage.profile(),
        "warnings": _warnings(values, samples, reference, sources["sizes"]),
    }


def _sources(samples: EvaluatedSet, reference: EvaluatedSet) -> dict:
    """Returns what the numbers depend on in addition to the protocol and the images."""
    assert samples.predictions is not None, "samples are always measured"
    sides = {"reference": reference.predictions, "samples": samples.predictions}
    of_reference = None if reference.predictions is None else reference.predictions.metadata()
    of_samples = samples.predictions.metadata()
    weights, sampling = of_samples.pop("weights"), of_samples.pop("sampling", None)
    # JAX adds its options to the class at run time.
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    precision = precision or "the device's default"
    machine = {"device": jax.devices()[0].device_kind, "matmul precision outside Inception": precision}
    return {
        "weights": weights,
        "crop": {name: side.crop() if side else "unknown" for name, side in sides.items()},
        "sizes": {name: list(side.size) for name, side in sides.items() if side},
        "sampling": sampling,
        "sources": {"reference": of_reference, "samples": of_samples},
        "compute": samples.predictions.compute() | machine,
        "versions": {package: metadata.version(package) for package in ("jax", "numpy")},
    }


def _absent_in(protocol):
    """Returns why each metric that only other protocols define is absent."""
    reasons = {}
    for other in protocols.PROTOCOLS.values():
        for name in other.metrics:
            if name not in protocol.metrics:
                reasons.setdefault(name, f"not part of protocol {protocol.name}; {other.name} has it")
    return reasons


def _warnings(values, samples, reference, sizes) -> list[str]:
    lines = [_size_warning(sizes), *filter(None, map(_unreadable_warning, (samples, reference)))]
    if samples.fingerprint == reference.fingerprint:
        lines.append(
            f"reference and samples are the same {samples.image_counts['samples']:,} images: distances between them are 0 "
            "by construction"
        )
    if "fid" in values:
        for side in (samples, reference):
            [(name, count)] = side.statistics_counts.items()
            lines.append(small_sample_warning(count, FEATURES["f2048"], name))
    return [line for line in lines if line]


def _unreadable_warning(side: EvaluatedSet) -> str | None:
    if side.predictions is None or not side.unreadable:
        return None
    shown = "; ".join(side.unreadable[:NAMED_UNREADABLE])
    more = len(side.unreadable) - NAMED_UNREADABLE
    return (
        f"{len(side.unreadable):,} of {len(side.predictions):,} images of {side.name} are unreadable and left out of every "
        f"measure: {shown}{f'; and {more:,} more' if more > 0 else ''}"
    )


def _size_warning(sizes: Mapping) -> str | None:
    if "reference" not in sizes or tuple(sizes["reference"]) == tuple(sizes["samples"]):
        return None
    reference, samples = ("{} x {}".format(*sizes[name]) for name in ("reference", "samples"))
    return (
        f"the images of the reference have {reference} pixels, those of the samples {samples}: the network resizes them "
        "from different sizes, which changes FID by itself"
    )
