import numpy as np
import pytest

from softvq_jax.metrics.codebook import CodebookUsage


def test_usage_and_perplexity():
    usage = CodebookUsage(2, 8)
    usage.update(np.array([[[0, 1], [5, 5]], [[2, 3], [5, 5]]]))
    usage.update(np.array([[[0, 1], [5, 5]], [[2, 3], [5, 5]]]))
    assert usage.usage == 5 / 16
    np.testing.assert_allclose(usage.perplexity, (4 + 1) / 2)  # four codes equally often, and one alone


def test_all_codes_equally_often():
    usage = CodebookUsage(1, 16)
    usage.update(np.arange(16).reshape(4, 1, 4))
    assert usage.usage == 1
    np.testing.assert_allclose(usage.perplexity, 16)


def test_invalid_indices_are_refused():
    usage = CodebookUsage(2, 8)
    with pytest.raises(ValueError, match=r"expected \[B, 2, tokens\]"):
        usage.update(np.zeros((3, 4, 2), int))
    with pytest.raises(ValueError, match="from 0 to 8; expected 0 to 7"):
        usage.update(np.array([[[0], [8]]]))


def test_the_profile_falls_from_the_most_to_the_least_used_code():
    usage = CodebookUsage(1, 5)
    usage.update(np.array([[[0] * 6 + [3] * 3 + [4]]]))
    assert usage.profile() == [3.0, 1.5, 0.5, 0.0, 0.0]  # over the mean of 10 / 5
    assert usage.profile(3) == [3.0, 0.5, 0.0]
    assert CodebookUsage(2, 3).profile() == [0.0] * 6
