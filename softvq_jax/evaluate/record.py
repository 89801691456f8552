"""The record of an evaluation, `evaluation.json`: its numbers and everything that they depend on."""

import dataclasses
import pathlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from softvq_jax.evaluate import protocols
from softvq_jax.evaluate.evaluated_set import EvaluatedSet, OnProgress
from softvq_jax.evaluate.numbers import codebook_usage, distribution_metrics, latent_metrics, pair_metrics
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.evaluate.protocols import Protocol
from softvq_jax.metrics.feature_statistics import small_sample_warning, write_statistics
from softvq_jax.models.inception import FEATURES
from softvq_jax.weights import files

NAMED_UNREADABLE = 5  # images in a warning; `evaluation.json` names all


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

    @classmethod
    def of_sets(
        cls,
        protocol: Protocol,
        samples: EvaluatedSet,
        reference: EvaluatedSet,
        codebook_size: int | None,
        needs: Mapping[str, str],
        on_progress: OnProgress,
    ) -> "EvaluationRecord":
        """Computes the numbers of two measured sets; arguments as in `evaluator.evaluate`.

        Raises:
          ValueError: a number is not finite, except the PSNR of equal images.
        """
        return cls(_content(protocol, samples, reference, codebook_size, needs, on_progress), samples, reference)

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


def early_warnings(predictions: Predictions, reference: Predictions | None) -> list[str]:
    """Returns warnings that are known before anything is measured."""
    sizes = {"samples": predictions.size} | ({"reference": reference.size} if reference else {})
    lines = [_size_warning(sizes)]
    if predictions.metadata()["weights"]["inception"]:
        lines.insert(0, small_sample_warning(len(predictions), FEATURES["f2048"], "samples"))
    return [line for line in lines if line]


def _content(protocol, samples, reference, codebook_size, needs, on_progress) -> dict:
    """Returns the content of `evaluation.json`."""
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
