"""Inception score (Salimans et al., 2016): `exp(mean KL(p(y|x) | p(y)))`, per split."""

from collections.abc import Iterable, Iterator

import numpy as np

from softvq_jax.metrics.metric import Metric, require


def inception_score(logits, splits: Iterable[slice | np.ndarray]) -> tuple[float, float]:
    """Returns mean and population standard deviation of the score over `splits` of the rows, computed in float64.

    Args:
      logits: `[n, classes]`, an array or an object that `splits` can index.
      splits: the rows of each split, from `splits_of_size` or `number_of_splits`, or as arrays of row numbers.

    Raises:
      ValueError: a logit is not finite.
    """
    scores = [_score(np.asarray(logits[split], np.float64)) for split in splits]
    return float(np.mean(scores)), float(np.std(scores))


def splits_of_size(count: int, size: int) -> Iterator[slice]:
    """Returns consecutive splits of `size` rows; the last one may be smaller."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def number_of_splits(count: int, splits: int) -> Iterator[slice]:
    """Returns `splits` consecutive splits, equal up to one row; raises TooFewImages if there are fewer rows."""
    require(count, splits, f"the Inception score in {splits} splits")
    return (slice(i * count // splits, (i + 1) * count // splits) for i in range(splits))


def _score(logits) -> float:
    if not np.isfinite(logits).all():
        raise ValueError("the logits are not finite: the network's weights may be broken")
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    # A class of probability 0 for all images contributes 0 log 0 = 0.
    log_marginal = np.log(np.where(marginal > 0, marginal, 1))
    return float(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))


def _compute(samples, reference, protocol, on_progress):
    logits = samples.rows("logits_unbiased")
    on_progress(0, 1)
    order = np.random.RandomState(protocol.shuffle_seed).permutation(len(logits))
    mean, std = inception_score(logits, [order[split] for split in protocol.splits(len(logits))])
    return {"is_mean": mean, "is_std": std}, samples.image_counts


def _describe(protocol):
    size, number = protocol.split_size, protocol.num_splits
    splits = f"{number} splits" if size is None else f"splits of {size:,}"
    return f"{splits} of the rows, shuffled with seed {protocol.shuffle_seed}"


INCEPTION_SCORE = Metric(
    "Inception score",
    {"is_mean": "Inception score", "is_std": "Inception score, std over splits"},
    "higher",
    _compute,
    _describe,
)
