"""The numbers of an evaluation, from measured sets of images."""

from collections.abc import Mapping

import numpy as np

from softvq_jax.evaluate.evaluated_set import EvaluatedSet, OnProgress, stage_progress
from softvq_jax.evaluate.protocols import Protocol
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.metrics.codebook import CodebookUsage
from softvq_jax.metrics.feature_statistics import BLOCK, Moments
from softvq_jax.metrics.image_quality import PAIR_METRICS
from softvq_jax.metrics.metric import Counts, NoFeatures, NotMeasured, TooFewImages
from softvq_jax.metrics.registry import METRICS

NEEDS = {"inception": "needs the Inception weights", "lpips": "needs the weights of LPIPS: of VGG16 and of the heads"}
"""Why metrics are absent without each network."""


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
            progress = stage_progress(on_progress, f"computing {metric.title}")
            found, used = metric.compute(samples, reference, protocol, progress)
        except NoFeatures:
            absent[name] = needs["inception"]
        except (NotMeasured, TooFewImages) as error:
            absent[name] = str(error)
        else:
            values |= found
            counts |= dict.fromkeys(found, used)
    return values, counts, absent


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
