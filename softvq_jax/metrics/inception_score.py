"""Inception score (Salimans et al., 2016): `exp(mean KL(p(y|x) | p(y)))`, per split."""

from collections.abc import Iterable, Iterator

import numpy as np

from softvq_jax.metrics.sample_size import require


def inception_score(logits, splits: Iterable[slice | np.ndarray]) -> tuple[float, float]:
    """Mean and population standard deviation of the score over `splits` of the rows.

    Args:
      logits: `[n, classes]`, an array or anything that `splits` index; computed in float64.
      splits: which rows belong together: `splits_of_size`, `number_of_splits`, or arrays of row numbers.

    Raises:
      ValueError: for logits that are not finite.
    """
    scores = [_score(np.asarray(logits[split], np.float64)) for split in splits]
    return float(np.mean(scores)), float(np.std(scores))


def splits_of_size(count: int, size: int) -> Iterator[slice]:
    """Consecutive splits of `size` rows; the last one may be smaller."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def number_of_splits(count: int, splits: int) -> Iterator[slice]:
    """Exactly `splits` consecutive splits, equal up to one row; TooFewImages where there are fewer rows."""
    require(count, splits, f"the Inception score in {splits} splits")
    return (slice(i * count // splits, (i + 1) * count // splits) for i in range(splits))


def _score(logits) -> float:
    if not np.isfinite(logits).all():
        raise ValueError("the logits are not finite: the network's weights may be broken")
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    # A class that no image can have adds 0 log 0 = 0.
    log_marginal = np.log(np.where(marginal > 0, marginal, 1))
    return float(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))
