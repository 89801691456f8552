import collections
import itertools

import numpy as np
import pytest
from scipy import stats

from softvq_jax.data.shuffle import shuffled


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 16, 17, 100, 255, 256, 1000])
def test_every_pass_is_a_permutation(length):
    for number in range(5):
        order = [shuffled(number * length + i, length, seed=3) for i in range(length)]
        assert sorted(order) == list(range(length))


def test_passes_and_seeds_differ():
    orders = {tuple(shuffled(n * 50 + i, 50, seed) for i in range(50)) for n in range(20) for seed in range(20)}
    assert len(orders) == 400


def test_far_into_a_large_set():
    """A position takes no memory, for any length of run and data set."""
    length = 10**10
    start = 10**15
    assert len({shuffled(start + i, length, 0) for i in range(1000)}) == 1000


@pytest.mark.parametrize("length", [5, 16, 37])
def test_items_are_uniform_at_every_position(length):
    """Chi-squared over seeds, of the item at a position, and of the item after each item."""
    seeds = 4000
    for place in (0, length // 2, length - 1):
        counts = np.bincount([shuffled(place, length, seed) for seed in range(seeds)], minlength=length)
        assert stats.chisquare(counts).pvalue > 1e-4
    pairs = collections.Counter((shuffled(0, length, seed), shuffled(1, length, seed)) for seed in range(seeds))
    counts = [pairs[pair] for pair in itertools.permutations(range(length), 2)]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbors_do_not_stay_together():
    """Distances between successive items have the mean of a random order, a third of the length."""
    order = np.array([shuffled(i, 10_000, 0) for i in range(10_000)])
    assert np.abs(np.diff(order)).mean() == pytest.approx(10_000 / 3, rel=0.03)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04
