"""From rows to numbers: the metrics of a protocol, and the report that carries everything they depend on."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from importlib import metadata

import jax
import numpy as np

from softvq_jax.evaluate import protocols
from softvq_jax.evaluate.measure import Subject
from softvq_jax.evaluate.protocols import Protocol
from softvq_jax.evaluate.row_cache import Records
from softvq_jax.metrics import fid, inception_score, kid, precision_recall
from softvq_jax.metrics.codebook import CodeUsage
from softvq_jax.metrics.feature_statistics import Statistics
from softvq_jax.metrics.latent_moments import LatentMoments
from softvq_jax.metrics.moments import BLOCK, Moments
from softvq_jax.metrics.sample_size import TooFewImages, caveat
from softvq_jax.models.inception import FEATURES
from softvq_jax.weights import fingerprints

PAIR_METRICS = ("psnr", "ssim_gauss", "ssim_uniform7", "ssim_uniform7_range2", "lpips")
NEEDS = {"inception": "needs the Inception weights", "lpips": "needs LPIPS' weights, VGG16's and the heads'"}

Counts = dict[str, int | None]  # by set: `samples`, `reference`, `reference statistics`; None where a file does not say
OnProgress = Callable[[str, int, int], None]  # told what is computed, how many parts of it are done, and of how many


class NotMeasured(Exception):
    """What a metric needs is not there."""


class NoFeatures(NotMeasured):
    """A metric needs features, and there was no network."""


@dataclasses.dataclass(frozen=True)
class Side:
    """The reference or the samples: rows of its images, statistics of their features, or both.

    Attributes:
      statistics: of a statistics file if there is one, else of the images' features.
      fingerprint: of its images; None where there are none.
      statistics_fingerprint: of the numbers of a statistics file; None where there is none.
    """

    name: str
    records: Records | None
    statistics: Statistics | None
    fingerprint: str | None
    statistics_fingerprint: str | None = None

    @classmethod
    def of_records(
        cls,
        name: str,
        records: Records,
        statistics: Statistics | None = None,
        on_progress: OnProgress = lambda what, done, total: None,
    ) -> "Side":
        """A side whose images were measured; their statistics are computed unless a file's are given."""
        fingerprint = fingerprints.of_images(records["digest"][:])
        if statistics is not None:
            return cls(name, records, statistics, fingerprint, _fingerprint(statistics))
        if "f2048" in records:
            pool3, spatial = (
                Moments.of(records[column], functools.partial(on_progress, f"{kind} statistics of {name}"))
                for column, kind in (("f2048", "pool3"), ("sfid", "spatial"))
            )
            statistics = Statistics.of(pool3, spatial)
        return cls(name, records, statistics, fingerprint)

    @classmethod
    def of_statistics(cls, name: str, statistics: Statistics) -> "Side":
        """A side of which only a statistics file is there."""
        return cls(name, None, statistics, None, _fingerprint(statistics))

    @property
    def image_counts(self) -> Counts:
        """How many images there are; nothing where there are none."""
        if self.fingerprint is None:
            return {}
        return {self.name: self.statistics.count if self.records is None else len(self.records)}

    @property
    def statistics_counts(self) -> Counts:
        """How many images the statistics are of."""
        if self.statistics_fingerprint is None:
            return self.image_counts
        return {f"{self.name} statistics": self.statistics.count}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the images, and of a file's statistics."""
        both = {self.name: self.fingerprint, f"{self.name} statistics": self.statistics_fingerprint}
        return {name: value for name, value in both.items() if value is not None}

    def rows(self, column: str):
        """A column of features; NotMeasured where there are only statistics, or no network."""
        if self.records is None:
            raise NotMeasured(f"needs the images of the {self.name}, and there are only statistics")
        if column not in self.records:
            raise NoFeatures
        return self.records[column]


def _fingerprint(statistics):
    arrays = {name: getattr(statistics, name) for name in ("mu", "sigma", "mu_s", "sigma_s")}
    return fingerprints.of_weights({name: array for name, array in arrays.items() if array is not None})


def distribution_metrics(
    protocol: Protocol,
    samples: Side,
    reference: Side,
    *,
    needs: Mapping[str, str] = NEEDS,
    on_progress: OnProgress = lambda what, done, total: None,
) -> tuple[dict[str, float], dict[str, Counts], dict[str, str]]:
    """The protocol's metrics by name, the images that each is made of, and why the others could not be computed.

    Args:
      needs: what to say where a network is not there, as `NEEDS`.
    """
    values, counts, absent = {}, {}, {}
    for name in protocol.metrics:
        try:
            found, used = _METRICS[name](protocol, samples, reference, on_progress)
        except NoFeatures:
            absent[name] = needs["inception"]
        except (NotMeasured, TooFewImages) as error:
            absent[name] = str(error)
        else:
            values |= found
            counts |= dict.fromkeys(found, used)
    return values, counts, absent


def _fid(protocol, samples, reference, on_progress):
    a, b = _statistics(samples), _statistics(reference)
    on_progress("FID", 0, 1)
    distance = fid.frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
    return {"fid": distance}, samples.statistics_counts | reference.statistics_counts


def _sfid(protocol, samples, reference, on_progress):
    a, b = _statistics(samples), _statistics(reference)
    if a.mu_s is None or b.mu_s is None:
        raise NotMeasured("the statistics file has no mu_s and sigma_s")
    on_progress("sFID", 0, 1)
    distance = fid.frechet_distance(a.mu_s, a.sigma_s, b.mu_s, b.sigma_s)
    return {"sfid": distance}, samples.statistics_counts | reference.statistics_counts


def _statistics(side):
    if side.statistics is None:
        raise NoFeatures
    return side.statistics


def _inception_score(protocol, samples, reference, on_progress):
    logits = samples.rows("logits_unbiased")
    on_progress("Inception score", 0, 1)
    order = np.random.RandomState(protocol.shuffle_seed).permutation(len(logits))
    mean, std = inception_score.inception_score(logits, [order[split] for split in protocol.splits(len(logits))])
    return {"is_mean": mean, "is_std": std}, samples.image_counts


def _precision_recall(protocol, samples, reference, on_progress):
    fake, real = samples.rows("f2048"), reference.rows("f2048")
    if protocol.max_references is not None and len(real) > protocol.max_references:
        drawn = np.random.RandomState(protocol.shuffle_seed).choice(len(real), protocol.max_references, replace=False)
        real = real[np.sort(drawn)]
    watch = functools.partial(on_progress, "precision and recall")
    precision, recall = precision_recall.precision_recall(real, fake, protocol.neighbours, on_progress=watch)
    values = {"precision": precision, "recall": recall, "f_score": precision_recall.f_score(precision, recall)}
    return values, samples.image_counts | {reference.name: len(real)}


def _kid(protocol, samples, reference, on_progress):
    mean, std = kid.kernel_distance(
        reference.rows("f2048"),
        samples.rows("f2048"),
        subsets=protocol.kid_subsets,
        subset_size=protocol.kid_subset_size,
        seed=protocol.shuffle_seed,
        on_progress=functools.partial(on_progress, "KID"),
    )
    return {"kid_mean": mean, "kid_std": std}, samples.image_counts | reference.image_counts


_METRICS: dict[str, Callable] = {
    "fid": _fid,
    "sfid": _sfid,
    "is": _inception_score,
    "precision_recall": _precision_recall,
    "kid": _kid,
}


def pair_metrics(records: Records) -> dict[str, float]:
    """Means over the images of every pixel metric that was measured.

    Of a set with equal pairs, whose PSNR is infinite, also their number and the PSNR of the pairs that differ.
    """
    values = {}
    for name in PAIR_METRICS:
        if name in records:
            rows = records[name][:]
            values[name] = float(np.mean(rows, dtype=np.float64))
            if name == "psnr" and np.isposinf(rows).any():
                values["equal_pairs"] = int(np.isposinf(rows).sum())
                if values["equal_pairs"] < len(rows):
                    values["psnr_differing"] = float(np.mean(rows[~np.isposinf(rows)], dtype=np.float64))
    return values


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
    precision = jax.config.jax_default_matmul_precision or "the device's default"
    machine = {"device": jax.devices()[0].device_kind, "matmul precision outside Inception": precision}
    return {
        "weights": about["samples"].pop("weights"),
        "crop": {name: side.crop() if side else "unknown" for name, side in sides.items()},
        "sizes": {name: list(side.size) for name, side in sides.items() if side},
        "sampling": about["samples"].pop("sampling", None),
        "sources": about,
        "compute": samples.compute() | machine,
        "versions": {package: metadata.version(package) for package in ("jax", "numpy")},
    }


def size_warning(details: Mapping) -> str | None:
    """A warning where the two sides' images are not of one size."""
    sizes = details["sizes"]
    if "reference" not in sizes or sizes["reference"] == sizes["samples"]:
        return None
    reference, samples = ("{} x {}".format(*sizes[name]) for name in ("reference", "samples"))
    return (
        f"the reference's images are {reference} pixels and the samples' {samples}: the network sees them resized from "
        "different sizes, which moves FID by itself"
    )


def report(
    protocol: Protocol,
    samples: Side,
    reference: Side,
    details: dict,
    *,
    codebook_size: int | None = None,
    needs: Mapping[str, str] = NEEDS,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict:
    """All numbers of an evaluation with what they depend on, as JSON values.

    Args:
      details: `details` of what was measured.
      codebook_size: the tokenizer's, for its codebooks' use.
      needs: what to say where a network is not there, as `NEEDS`.

    Raises:
      ValueError: a number is not finite, other than the PSNR of equal images.
    """
    values, counts, absent = distribution_metrics(protocol, samples, reference, needs=needs, on_progress=on_progress)
    absent |= _of_other_protocols(protocol)
    rows = samples.records
    of_samples = pair_metrics(rows)
    usage = code_usage(rows, codebook_size) if "codes" in rows else None
    if usage is not None:
        of_samples |= {"code_use": usage.use, "perplexity": usage.perplexity}
    if "latents" in rows:
        of_samples |= latent_metrics(rows)
    if "psnr" in rows and "lpips" not in rows:
        absent["lpips"] = needs["lpips"]
    if "equal_pairs" in of_samples:
        absent["psnr"] = f"infinite: {of_samples['equal_pairs']:,} of {len(rows):,} images equal their originals"
    values, counts = values | of_samples, counts | dict.fromkeys(of_samples, samples.image_counts)
    for name in values.keys() - absent.keys():
        if not np.isfinite(values[name]):
            raise ValueError(f"{name} is {values[name]}: what was measured in {rows.folder} is broken; remove it")
    return {
        "protocol": {**dataclasses.asdict(protocol), **protocols.COMMON, "settings": protocol.settings()},
        "counts": samples.image_counts | reference.image_counts | _file_counts(reference),
        "fingerprints": samples.fingerprints | reference.fingerprints,
        **details,
        "metrics": {name: None if name in absent else value for name, value in values.items()},
        "metric_counts": counts,
        "absent": absent,
        "code_profile": None if usage is None else usage.profile(),
        "warnings": _warnings(values, samples, reference, details),
    }


def _file_counts(side):
    return {} if side.statistics_fingerprint is None else side.statistics_counts


def _of_other_protocols(protocol):
    """Why the metrics that only other protocols define are not there."""
    where = {}
    for other in protocols.PROTOCOLS.values():
        for name in other.metrics:
            if name not in protocol.metrics:
                where.setdefault(name, f"not part of protocol {protocol.name}; {other.name} has it")
    return where


def _warnings(values, samples, reference, details) -> list[str]:
    lines = [size_warning(details)]
    if samples.fingerprint == reference.fingerprint:
        [count] = samples.image_counts.values()
        lines.append(
            f"reference and samples are the same {count:,} images: distances between them are 0 by construction"
        )
    if "fid" in values:
        for side in (samples, reference):
            [(name, count)] = side.statistics_counts.items()
            lines.append(caveat(count, FEATURES["f2048"], name))
    return [line for line in lines if line]
