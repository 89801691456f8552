"""From rows to numbers: the metrics of a protocol, and the report that carries everything they depend on."""

import dataclasses
from collections.abc import Callable
from importlib import metadata

import numpy as np

from softvq_jax.evaluate import fid, fingerprints, inception_score, kid, precision_recall, protocols
from softvq_jax.evaluate.codebook import CodeUsage
from softvq_jax.evaluate.counts import TooFewImages, caveat
from softvq_jax.evaluate.latents import LatentMoments
from softvq_jax.evaluate.measure import Subject
from softvq_jax.evaluate.moments import BLOCK, Moments
from softvq_jax.evaluate.protocols import Protocol
from softvq_jax.evaluate.records import Records
from softvq_jax.evaluate.statistics import Statistics
from softvq_jax.models.inception import FEATURES

PAIR_METRICS = ("psnr", "ssim_gauss", "ssim_uniform7", "ssim_uniform7_range2", "lpips")


class NotMeasured(Exception):
    """What a metric needs is not there."""


@dataclasses.dataclass(frozen=True)
class Side:
    """The reference or the samples: rows of its images, statistics of their features, or both.

    Attributes:
      fingerprint: of its images; of a statistics file, of its numbers.
    """

    name: str
    records: Records | None
    statistics: Statistics | None
    fingerprint: str

    @classmethod
    def of_records(cls, name: str, records: Records, statistics: Statistics | None = None) -> "Side":
        """A side whose images were measured; their statistics are computed unless given."""
        if statistics is None and "f2048" in records:
            statistics = Statistics.of(Moments.of(records["f2048"]), Moments.of(records["sfid"]))
        return cls(name, records, statistics, fingerprints.of_images(records["digest"][:]))

    @classmethod
    def of_statistics(cls, name: str, statistics: Statistics) -> "Side":
        """A side of which only a statistics file is there."""
        return cls(name, None, statistics, fingerprints.of_weights({"mu": statistics.mu, "sigma": statistics.sigma}))

    @property
    def count(self) -> int | None:
        """How many images; None for a statistics file that does not say."""
        return self.statistics.count if self.records is None else len(self.records)

    def rows(self, column: str):
        """A column of features; NotMeasured where there are only statistics, or no network."""
        if self.records is None:
            raise NotMeasured(f"needs the images of the {self.name}, and there are only statistics")
        if column not in self.records:
            raise NotMeasured("needs the Inception weights")
        return self.records[column]


def distribution_metrics(protocol: Protocol, samples: Side, reference: Side) -> tuple[dict[str, float], dict[str, str]]:
    """The protocol's metrics by name, and for those that could not be computed the reason."""
    values, absent = {}, {}
    for name in protocol.metrics:
        try:
            values |= _METRICS[name](protocol, samples, reference)
        except (NotMeasured, TooFewImages) as error:
            absent[name] = str(error)
    return values, absent


def _fid(protocol, samples, reference):
    a, b = _statistics(samples), _statistics(reference)
    return {"fid": fid.frechet_distance(a.mu, a.sigma, b.mu, b.sigma)}


def _sfid(protocol, samples, reference):
    a, b = _statistics(samples), _statistics(reference)
    if a.mu_s is None or b.mu_s is None:
        raise NotMeasured("the statistics file has no mu_s and sigma_s")
    return {"sfid": fid.frechet_distance(a.mu_s, a.sigma_s, b.mu_s, b.sigma_s)}


def _statistics(side):
    if side.statistics is None:
        raise NotMeasured("needs the Inception weights")
    return side.statistics


def _inception_score(protocol, samples, reference):
    logits = samples.rows("logits_unbiased")
    order = np.random.RandomState(protocol.shuffle_seed).permutation(len(logits))
    mean, std = inception_score.inception_score(logits, [order[split] for split in protocol.splits(len(logits))])
    return {"is_mean": mean, "is_std": std}


def _precision_recall(protocol, samples, reference):
    fake, real = samples.rows("f2048"), reference.rows("f2048")
    if protocol.max_references is not None and len(real) > protocol.max_references:
        drawn = np.random.RandomState(protocol.shuffle_seed).choice(len(real), protocol.max_references, replace=False)
        real = real[np.sort(drawn)]
    precision, recall = precision_recall.precision_recall(real, fake, protocol.neighbours)
    return {"precision": precision, "recall": recall, "f_score": precision_recall.f_score(precision, recall)}


def _kid(protocol, samples, reference):
    mean, std = kid.kernel_distance(
        reference.rows("f2048"),
        samples.rows("f2048"),
        subsets=protocol.kid_subsets,
        subset_size=protocol.kid_subset_size,
        seed=protocol.shuffle_seed,
    )
    return {"kid_mean": mean, "kid_std": std}


_METRICS: dict[str, Callable] = {
    "fid": _fid,
    "sfid": _sfid,
    "is": _inception_score,
    "precision_recall": _precision_recall,
    "kid": _kid,
}


def pair_metrics(records: Records) -> dict[str, float]:
    """Means over the images of every pixel metric that was measured."""
    return {name: float(np.mean(records[name][:], dtype=np.float64)) for name in PAIR_METRICS if name in records}


def code_usage(records: Records, codebook_size: int) -> CodeUsage:
    """The usage of the codes that were measured."""
    usage = CodeUsage(records["codes"].shape[1], codebook_size)
    for start in range(0, len(records), BLOCK):
        usage.update(records["codes"][start : start + BLOCK])
    return usage


def latent_metrics(records: Records) -> dict[str, float]:
    """Mean and standard deviation of the latents that were measured."""
    latents = LatentMoments(records["latents"].shape[-1])
    for start in range(0, len(records), BLOCK):
        latents.update(records["latents"][start : start + BLOCK])
    return {"latent_mean": latents.mean, "latent_std": latents.std}


def details(reference: Subject | None, samples: Subject) -> dict:
    """What numbers depend on beside the protocol and the images themselves; no reference where it is statistics."""
    sides = {"reference": reference, "samples": samples}
    about = {name: side and side.about() for name, side in sides.items()}
    return {
        "weights": about["samples"].pop("weights"),
        "crop": {name: side.crop() if side else "unknown" for name, side in sides.items()},
        "sampling": about["samples"].pop("sampling", None),
        "sources": about,
        "versions": {package: metadata.version(package) for package in ("jax", "numpy")},
    }


def report(
    protocol: Protocol, samples: Side, reference: Side, details: dict, *, codebook_size: int | None = None
) -> dict:
    """All numbers of an evaluation with what they depend on, as JSON values.

    Args:
      details: further facts: weights' fingerprints, crops, versions.
      codebook_size: the tokenizer's, for its codebooks' use.
    """
    values, absent = distribution_metrics(protocol, samples, reference)
    values |= pair_metrics(samples.records)
    usage = code_usage(samples.records, codebook_size) if "codes" in samples.records else None
    if usage is not None:
        values |= {"code_use": usage.use, "perplexity": usage.perplexity}
    if "latents" in samples.records:
        values |= latent_metrics(samples.records)
    absent |= {
        name: "infinite: some reconstructions equal their originals" for name in values if not np.isfinite(values[name])
    }
    caveats = [
        caveat(side.count, FEATURES["f2048"], side.name) for side in (samples, reference) if side.statistics is not None
    ]
    return {
        "protocol": {**dataclasses.asdict(protocol), **protocols.COMMON},
        "counts": {"samples": samples.count, "reference": reference.count},
        "fingerprints": {"samples": samples.fingerprint, "reference": reference.fingerprint},
        **details,
        "metrics": {name: value if np.isfinite(value) else None for name, value in values.items()},
        "absent": absent,
        "code_profile": None if usage is None else usage.profile(),
        "warnings": [line for line in caveats if line],
    }
