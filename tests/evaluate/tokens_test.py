import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.evaluate import tokens
from softvq_jax.models.functional import functional
from softvq_jax.models.tokenizer import TokenizerModel
from softvq_jax.pixels import to_uint8
from softvq_jax.tokenizer import Tokenizer
from tests import small_tokenizers as small

IMAGES = to_uint8(small.images(3))


class Plates:
    """A tokenizer whose token `l` is the mean color of plate `l` of 2 x 2 plates."""

    def encode(self, images):
        plates = jnp.asarray(images, jnp.float32).reshape(len(images), 2, 16, 2, 16, 3).mean(axis=(2, 4))
        return plates.reshape(len(images), 4, 3) / 127.5 - 1

    def decode(self, latents):
        return jnp.kron(latents.reshape(-1, 2, 2, 3), jnp.ones((1, 16, 16, 1)))


@pytest.mark.parametrize("replacement", tokens.REPLACEMENTS)
def test_a_token_changes_what_it_decodes_to_and_nothing_else(replacement):
    found = tokens.effects(Plates(), IMAGES, replacement)
    own = found.reconstructions.astype(np.float64)
    other = {"zero": np.full_like(own, 128), "mean": np.broadcast_to(own.mean(axis=0), own.shape)}
    other["swap"] = own[[1, 2, 0]]
    for token, (row, column) in enumerate(np.ndindex(2, 2)):
        plate = np.zeros((32, 32, 1))
        plate[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1
        expected = own * (1 - plate) + other[replacement] * plate
        np.testing.assert_allclose(found.changed[:, token], expected, atol=1.01)  # rounded to 8 bits twice
        np.testing.assert_array_equal(found.changed[:, token] * (1 - plate), own * (1 - plate))
    assert found.maps.shape == (3, 4, 32, 32)


def test_a_single_image_cannot_be_swapped():
    with pytest.raises(ValueError, match="'swap' needs at least 2 images"):
        tokens.effects(Plates(), IMAGES[:1], "swap")


@pytest.fixture(scope="module")
def local() -> Tokenizer:
    """A fresh tokenizer in which attention copies patch `i` to token `i`, see `models.local_init`."""
    config = small.config("ae", encoder=small.vit(num_heads=1, width=64), decoder=small.vit(num_heads=1, width=64))
    config = dataclasses.replace(config, num_latent_tokens=16, local_init=True)
    return Tokenizer.init(config, jax.random.key(0))


@pytest.mark.slow
def test_attention_of_a_network_that_copies_each_patch_to_its_token(local):
    encoder, decoder = tokens.attention(local, IMAGES)
    assert encoder.shape == decoder.shape == (3, 16, 4, 4)
    for maps in (encoder, decoder):
        assert (maps.reshape(3, 16, 16).argmax(axis=-1) == np.arange(16)).all()


@pytest.mark.slow
def test_attention_gives_the_weights_of_the_values():
    """The module's own output, which another implementation computes, is the mean of the values by these weights."""
    config = small.config("ae", encoder=small.vit(depth=1))
    network = functional(TokenizerModel, config)(small.params(config))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 25, 32)), jnp.float32)
    block = jax.tree.map(lambda leaf: leaf[0], network.encoder.vit.transformer.blocks)
    weights = block.attn.probabilities(x)
    values = block.attn.qkv(x)[..., 64:].reshape(2, 25, 4, 8)
    mean = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(2, 25, 32)
    np.testing.assert_allclose(block.attn.proj(mean), block.attn(x), rtol=1e-4, atol=1e-5)
    maps = network.encoder.vit.transformer.attention_maps(x)
    np.testing.assert_allclose(maps[0], block.attn.probabilities(block.norm1(x)).mean(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_layers_that_do_not_exist_are_named(local):
    with pytest.raises(ValueError, match="layer is 1; expected 0 to 0"):
        tokens.attention(local, IMAGES, layer=1)
    with pytest.raises(ValueError, match="attention maps need a tokenizer with a ViT"):
        tokens.attention(type("Other", (), {"network": None})(), IMAGES)


@pytest.mark.slow
def test_all_probable_codes_together_are_the_latents_of_softvq():
    tokenizer = small.tokenizer(small.config("softvq"))
    found = tokens.nearest_codes(tokenizer, IMAGES, count=16, shown=(1, 16))
    assert found.are_probabilities and found.indices.shape == (3, 8, 16)
    np.testing.assert_allclose(found.values.sum(axis=-1), 1, rtol=1e-5)
    assert (np.diff(found.values, axis=-1) <= 0).all()
    difference = found.reconstructions["16 most probable"] - found.reconstructions["all codes"].astype(int)
    assert np.abs(difference).max() <= 1
    posterior = np.asarray(tokenizer.posterior(IMAGES)).reshape(3, 8, 16)
    np.testing.assert_array_equal(found.indices[..., 0], posterior.argmax(axis=-1))


@pytest.mark.slow
def test_the_nearest_code_of_vq_is_its_index():
    tokenizer = small.tokenizer(small.config("vq"))
    found = tokens.nearest_codes(tokenizer, IMAGES, count=2, shown=(1, 2))
    indices = np.asarray(tokenizer.encode_indices(IMAGES)).reshape(3, 8)
    np.testing.assert_array_equal(found.indices[..., 0], indices)
    expected = to_uint8(np.asarray(tokenizer.decode(tokenizer.encode(IMAGES))))
    np.testing.assert_array_equal(found.reconstructions["code 1 in distance"], expected)
    assert (found.values[..., 0] <= found.values[..., 1]).all() and not found.are_probabilities


def test_a_tokenizer_without_codes_is_refused():
    with pytest.raises(ValueError, match="nearest codes need a tokenizer with a codebook"):
        tokens.nearest_codes(small.tokenizer(small.config("ae")), IMAGES)
