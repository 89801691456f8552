import numpy as np
import pytest
from scipy import special, stats

from softvq_jax.evaluate.encodings import Encodings
from tests import small_tokenizers

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def _tokenizer(**fields):
    return small_tokenizers.tokenizer(small_tokenizers.config(**fields))


@pytest.mark.parametrize("bottleneck", ["softvq", "vq", "simvq", "kl", "ae"])
def test_the_output_of_the_bottleneck_equals_the_tokenizers_latents(bottleneck):
    tokenizer = _tokenizer(bottleneck=bottleneck)
    rows = Encodings(tokenizer)(IMAGES)
    x = IMAGES.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(rows["after"], tokenizer.encode(x), atol=2e-5)
    assert rows["before"].shape == rows["after"].shape
    if bottleneck in ("kl", "ae"):
        np.testing.assert_array_equal(rows["before"], rows["after"])
    if bottleneck in ("vq", "simvq"):
        np.testing.assert_array_equal(rows["codes"], tokenizer.encode_indices(x))
    assert ("posterior_entropy" in rows) == (bottleneck == "softvq")


def test_entropy_of_the_posterior():
    tokenizer = _tokenizer(bottleneck="softvq", num_codebooks=1, temperature=0.3)
    rows = Encodings(tokenizer)(IMAGES)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    codes = unit(np.float64(tokenizer.params["bottleneck"]["codebook"][0]))
    p = special.softmax(unit(np.float64(rows["before"])) @ codes.T / 0.3, axis=-1)
    np.testing.assert_allclose(rows["posterior_entropy"], stats.entropy(p, axis=-1).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(rows["max_probability"], p.max(axis=-1).mean(axis=1), rtol=1e-4)
