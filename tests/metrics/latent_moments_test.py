import json

import numpy as np
import pytest

from softvq_jax.metrics.latent_moments import LatentMoments


def test_moments_are_numpys_whatever_the_batches():
    latents = (np.random.default_rng(0).normal(size=(101, 4, 6)) * [1, 2, 3, 4, 5, 6] + 100).astype(np.float32)
    moments = LatentMoments(6)
    for batch in np.array_split(latents, 7):
        moments.update(batch)
    exact = latents.astype(np.float64)
    np.testing.assert_allclose(moments.channel_mean, exact.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(moments.channel_std, exact.std(axis=(0, 1)), rtol=1e-10)
    np.testing.assert_allclose([moments.mean, moments.std], [exact.mean(), exact.std()], rtol=1e-10)
    assert moments.count == 101 * 4


def test_moments_of_parts_are_merged():
    latents = np.random.default_rng(0).normal(3.0, 2.0, size=(30, 4, 6))
    whole = LatentMoments(6)
    whole.update(latents)
    merged = LatentMoments(6)
    for part in (latents[:7], latents[7:29], latents[29:]):
        moments = LatentMoments(6)
        moments.update(part)
        merged.merge(LatentMoments.from_fields(json.loads(json.dumps(moments.to_fields()))))
    merged.merge(LatentMoments(6))  # of nothing
    assert merged.count == whole.count
    np.testing.assert_allclose([merged.mean, merged.std], [whole.mean, whole.std], rtol=1e-12)
    np.testing.assert_allclose(merged.channel_std, whole.channel_std, rtol=1e-12)


def test_other_channels_and_nan_are_refused():
    moments = LatentMoments(6)
    with pytest.raises(ValueError, match="latents of 5 channels; expected 6"):
        moments.update(np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="1 of 36 latent numbers are not finite"):
        moments.update(np.where(np.arange(36).reshape(2, 3, 6) == 7, np.nan, 0.0))
