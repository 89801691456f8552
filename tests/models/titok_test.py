"""TiTok's three kinds of tokenizers; parity covers their numbers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.models.maskgit_vqgan import PixelDecoderConfig
from softvq_jax.models.titok import TiTokConfig
from tests import small_titok, small_tokenizers

IMAGES = jnp.asarray(small_tokenizers.images(2))


@pytest.mark.parametrize("kind", small_titok.KINDS)
def test_encodes_and_decodes(kind):
    config = small_titok.config(kind)
    network = small_titok.functional(config)

    @jax.jit
    def run(params, images):
        model = network(params)
        latents = model.encode(images)
        results = {"latents": latents, "decoded": model.decode(latents), "trained": model(images)}
        if config.discrete:
            indices = model.encode_indices(images)
            results |= {"indices": indices, "from_indices": model.decode_indices(indices)}
        return results

    results = run(small_titok.params(network), IMAGES)
    assert results["latents"].shape == (2, small_titok.NUM_TOKENS, small_titok.DIM)
    assert results["decoded"].shape == IMAGES.shape and results["decoded"].dtype == jnp.float32
    assert results["trained"].decoded.shape == (2, 16, 64)
    assert set(results["trained"].bottlenecked.losses) >= ({"codebook", "commitment"} if config.discrete else {"kl"})
    if config.discrete:
        assert results["indices"].shape == (2, 1, small_titok.NUM_TOKENS)
        np.testing.assert_array_equal(results["from_indices"], results["decoded"])


@pytest.mark.slow
def test_fresh_networks_are_finite_and_trainable():
    """A fresh VAE samples with a key, and every parameter gets a gradient."""
    network = small_titok.functional(small_titok.config("vae"))
    params, _ = jax.jit(network.init)(jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def loss(params, key):
        model = network(params)
        out = model(IMAGES, key=key)
        return jnp.mean(jnp.square(model.decoder.to_pixels(out.decoded) - IMAGES)) + out.bottlenecked.losses["kl"]

    first, second = (loss(params, jax.random.key(seed)) for seed in (1, 2))
    assert np.isfinite(first[0]) and first[0] != second[0]
    assert all(leaf.any() for leaf in jax.tree.leaves(first[1]))


@pytest.mark.parametrize(
    ("sides", "millions"), [(("large", "large"), 641), (("base", "base"), 205), (("small", "small"), 83)]
)
def test_published_sizes(sides, millions):
    """The two-stage tokenizers L-32, B-64 and S-128: TiTok, table 1."""
    config = TiTokConfig(*map(small_titok.vit_config, sides), pixel_decoder=PixelDecoderConfig())
    count = sum(leaf.size for leaf in jax.tree.leaves(small_titok.functional(config).shapes))
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_from_dict():
    config = small_titok.config("two_stage")
    assert TiTokConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_refusals():
    with pytest.raises(ValueError, match="local_init is true"):
        small_titok.config("vq", local_init=True)
    with pytest.raises(ValueError, match=r"enlarges 16 times, but the decoder's patch size is 8"):
        small_titok.config("vq", pixel_decoder=PixelDecoderConfig(width=32))
    with pytest.raises(ValueError, match=r"width is 48; expected a multiple of 32"):
        PixelDecoderConfig(width=48)


def test_the_first_tokens_can_be_decoded_alone():
    """One-D-Piece decodes the first tokens; the others' positions are not read."""
    network = small_titok.functional(small_titok.config("vq"))
    params = small_titok.params(network)
    latents = jax.random.normal(jax.random.key(0), (1, 3, small_titok.DIM))
    decode = jax.jit(lambda params: network(params).decode(latents))
    images = decode(params)
    positions = params["decoder"]["latent_pos_embed"].at[3:].set(9.0)
    changed = params | {"decoder": params["decoder"] | {"latent_pos_embed": positions}}
    np.testing.assert_array_equal(decode(changed), images)
