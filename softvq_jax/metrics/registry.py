"""All metrics that compare two sets of images, by their names in protocols."""

from softvq_jax.metrics import fid, inception_score, kid, precision_recall
from softvq_jax.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    "fid": fid.FID,
    "sfid": fid.SFID,
    "is": inception_score.INCEPTION_SCORE,
    "precision_recall": precision_recall.PRECISION_RECALL,
    "kid": kid.KID,
}


def titles() -> dict[str, str]:
    """Returns the names for people of all metrics and of all their numbers, by key."""
    found = {}
    for name, metric in METRICS.items():
        found |= {name: metric.title, **metric.titles}
    return found
