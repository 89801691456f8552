import numpy as np
import pytest

from softvq_jax.metrics.inception_score import inception_score, number_of_splits, splits_of_size
from softvq_jax.metrics.metric import TooFewImages


def test_certain_and_equally_frequent_classes_score_their_number():
    logits = 1000.0 * np.eye(8, dtype=np.float32)[np.arange(400) % 8]
    mean, std = inception_score(logits, number_of_splits(400, 10))
    np.testing.assert_allclose([mean, std], [8, 0], atol=1e-9)


def test_equal_predictions_score_one():
    logits = np.tile(np.random.default_rng(0).normal(size=(1, 50)), (60, 1))
    np.testing.assert_allclose(inception_score(logits, splits_of_size(60, 25)), (1, 0), atol=1e-12)


def test_the_definition():
    logits = np.random.default_rng(0).normal(size=(30, 7)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = [np.exp(np.mean([(q * np.log(q / part.mean(axis=0))).sum() for q in part])) for part in (p[:20], p[20:])]
    np.testing.assert_allclose(
        inception_score(logits, splits_of_size(30, 20)), (np.mean(scores), np.std(scores)), rtol=1e-12
    )


def test_rows_of_a_split_may_be_anywhere():
    logits = np.random.default_rng(0).normal(size=(30, 7))
    order = np.random.default_rng(1).permutation(30)
    splits = [order[split] for split in splits_of_size(30, 15)]
    assert inception_score(logits, splits) == inception_score(logits[order], splits_of_size(30, 15))


def test_splits():
    assert [(s.start, s.stop) for s in splits_of_size(12, 5)] == [(0, 5), (5, 10), (10, 12)]
    assert [(s.start, s.stop) for s in number_of_splits(11, 3)] == [(0, 3), (3, 7), (7, 11)]
    with pytest.raises(TooFewImages, match="10 splits needs at least 10 images, and there are 9"):
        number_of_splits(9, 10)


def test_broken_logits_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        inception_score(np.array([[0.0, np.nan]]), splits_of_size(1, 1))
