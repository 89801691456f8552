"""Mean and standard deviation of a stream of latents."""

import json

import numpy as np
import pytest

from softvq_jax.latent_statistics import (
    LatentStatistics,
    add_latents,
    moments_from_fields,
    moments_to_fields,
    no_latents,
)


def test_statistics_do_not_depend_on_batches_and_shards():
    latents = (np.random.default_rng(0).normal(size=(101, 4, 6)) * [1, 2, 3, 4, 5, 6] + 100).astype(np.float32)
    merged = no_latents()
    for shard in (latents[:7], latents[7:100], latents[100:]):
        moments = no_latents()
        for batch in np.array_split(shard, 3):
            if len(batch):
                add_latents(moments, batch)
        merged.merge(moments_from_fields(json.loads(json.dumps(moments_to_fields(moments)))))
    found, exact = LatentStatistics.from_moments(merged), latents.astype(np.float64)
    np.testing.assert_allclose([found.mean, found.std], [exact.mean(), exact.std()], rtol=1e-10)
    assert merged.count == latents.size


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 36 latent values are not finite"):
        add_latents(no_latents(), np.where(np.arange(36).reshape(2, 3, 6) == 7, np.nan, 0.0))


def test_bad_statistics_are_refused():
    with pytest.raises(ValueError, match=r"std 0\.0; expected finite, std positive"):
        LatentStatistics(0.0, 0.0)
