"""Mean and standard deviation of a stream of latents."""

import json

import numpy as np
import pytest

from softvq_jax.latent_statistics import (
    LatentStatistics,
    add_latents,
    moments_from_fields,
    moments_to_fields,
)
from softvq_jax.metrics.feature_statistics import Moments


def test_statistics_do_not_depend_on_batches_and_shards():
    latents = (np.random.default_rng(0).normal(size=(101, 4, 6)) * [1, 2, 3, 4, 5, 6] + 100).astype(np.float32)
    merged = Moments(6)
    for shard in (latents[:7], latents[7:100], latents[100:]):
        moments = Moments(6)
        for batch in np.array_split(shard, 3):
            if len(batch):
                add_latents(moments, batch)
        merged.merge(moments_from_fields(json.loads(json.dumps(moments_to_fields(moments)))))
    found, exact = LatentStatistics.from_moments(merged), latents.astype(np.float64)
    np.testing.assert_allclose([found.mean, found.std], [exact.mean(), exact.std()], rtol=1e-10)
    assert merged.count == latents.size / 6
    of_channels = LatentStatistics.from_moments(merged, "channel")
    np.testing.assert_allclose(of_channels.mean, exact.mean(axis=(0, 1)), rtol=1e-10)
    np.testing.assert_allclose(of_channels.std, exact.std(axis=(0, 1)), rtol=1e-8)


def test_statistics_of_channels_normalize_each_channel():
    rng = np.random.default_rng(0)
    latents = np.float32(rng.normal(size=(50, 4, 3)) * [1, 5, 0.1] + [0, 2, -3])
    moments = Moments(3)
    add_latents(moments, latents)
    statistics = LatentStatistics.from_moments(moments, "channel")
    assert statistics.channels == 3 and LatentStatistics(0.5, 2.0).channels is None
    normalized = statistics.normalize(latents)
    np.testing.assert_allclose(normalized.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=(0, 1)), 1, atol=1e-5)
    np.testing.assert_allclose(statistics.denormalize(normalized), latents, atol=1e-5)


@pytest.mark.parametrize("statistics", [LatentStatistics(0.5, 2.0), LatentStatistics((0.5, 1.5), (2.0, 0.25))])
def test_fields_of_config_json(statistics):
    assert LatentStatistics.from_fields(json.loads(json.dumps(statistics.to_fields()))) == statistics
    hash(statistics)  # static part of a pytree


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 36 latent values are not finite"):
        add_latents(Moments(6), np.where(np.arange(36).reshape(2, 3, 6) == 7, np.nan, 0.0))


def test_bad_statistics_are_refused():
    with pytest.raises(ValueError, match="2 means and 1 standard deviations"):
        LatentStatistics((0.0, 1.0), (1.0,))
    with pytest.raises(ValueError, match="1 means and 1 standard deviations; expected one of each, or one of each for"):
        LatentStatistics((0.0,), 1.0)
    with pytest.raises(ValueError, match="expected finite, std positive"):
        LatentStatistics((0.0, 1.0), (1.0, 0.0))
    with pytest.raises(ValueError, match=r"std 0\.0; expected finite, std positive"):
        LatentStatistics(0.0, 0.0)
