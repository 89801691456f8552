"""MAETok's masked encoder, modulated decoder and auxiliary decoders; parity covers their numbers."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.functional import functional
from softvq_jax.models.maetok import AuxiliaryDecoder, MAETokConfig, MAETokModel
from softvq_jax.models.vit import Block, ViT, ViTConfig, modulate_last
from tests import small_maetok, small_titok, small_tokenizers

IMAGES = jnp.asarray(small_tokenizers.images(2))
CONFIG = small_maetok.config()
NETWORK = functional(MAETokModel, CONFIG)


@pytest.mark.slow
def test_every_parameter_gets_a_gradient():
    """Those of rotary positions, mask token and modulations included, and of an auxiliary decoder."""
    decoder = functional(AuxiliaryDecoder, CONFIG, 20)
    params = {"model": small_titok.params(NETWORK), "auxiliary": small_titok.params(decoder)}
    mask = jnp.arange(16) % 2 == jnp.arange(2)[:, None]

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        model = NETWORK(params["model"])
        out = model(IMAGES, mask=mask, key=jax.random.key(3))
        features = decoder(params["auxiliary"])(out.bottlenecked.latents)
        assert features.shape == (2, 16, 20) and out.bottlenecked.latents.shape == (2, 8, 32)
        return jnp.mean(jnp.square(model.decoder.to_pixels(out.decoded) - IMAGES)) + jnp.mean(features)

    value, grads = loss(params)
    assert np.isfinite(value)
    assert all(leaf.any() for leaf in jax.tree.leaves(grads))


def test_masked_patches_are_not_seen():
    params = small_titok.params(NETWORK)
    mask = jnp.zeros((2, 16), bool).at[0, 0].set(True)  # the first patch of the first image
    encode = jax.jit(lambda images: NETWORK(params).to_latents(NETWORK(params).encoder(images, mask=mask)))
    before, after = encode(IMAGES), encode(IMAGES.at[:, :8, :8].set(0.5))
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-4


@pytest.mark.slow
def test_fresh_modulation_hides_the_latents():
    """At 0, shift and scale hide the latent tokens from all others; the first step changes that."""
    fresh = Block(CONFIG.decoder, 32, rngs=nnx.Rngs(0)).modulation
    assert not fresh.kernel[...].any() and not fresh.bias[...].any()
    params = small_titok.params(NETWORK)
    blocks = params["decoder"]["transformer"]["blocks"]
    blocks["modulation"] = jax.tree.map(jnp.zeros_like, blocks["modulation"])
    latents = jax.random.normal(jax.random.key(1), (2, 8, 32))

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        images = NETWORK(params).decode(latents)
        return jnp.mean(images**2), images

    grads, images = gradient(params)
    np.testing.assert_allclose(images[0], images[1], atol=1e-6)
    kernel = grads["decoder"]["transformer"]["blocks"]["modulation"]["kernel"]
    assert kernel.shape == (2, 32, 4 * 64) and kernel[:, :, :128].any()
    # Nothing reads the latents after the last block: its MLP's modulation has no effect.
    assert not kernel[-1, :, 128:].any()


def test_modulates_the_last_tokens():
    tokens, modulation = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype(np.float32)
    modulated = modulate_last(tokens, modulation[:, :2].repeat(2, axis=-1))
    shift, scale = np.split(modulation[:, :2].repeat(2, axis=-1), 2, axis=-1)
    np.testing.assert_array_equal(modulated[:, :3], tokens[:, :3])
    np.testing.assert_allclose(modulated[:, 3:], tokens[:, 3:] * scale + shift, rtol=1e-6)


def test_a_vit_without_class_token():
    """As SigLIP's: the tokens are the patches, each with its own position."""
    vit = ViTConfig(width=32, depth=1, num_heads=2, patch_size=8, class_token=False, num_registers=0)
    network = functional(ViT, vit, 32)
    params = small_titok.params(network)
    assert "cls_token" not in params and params["pos_embed"].shape == (16, 32)
    tokens = network(params).embed(IMAGES)
    without = network(params | {"pos_embed": jnp.zeros((16, 32))}).embed(IMAGES)
    np.testing.assert_allclose(tokens - without, np.broadcast_to(params["pos_embed"], (2, 16, 32)), atol=1e-6)


def test_from_dict():
    assert MAETokConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(CONFIG)))) == CONFIG


def test_refusals():
    with pytest.raises(ValueError, match="local_init is true, but a MAETok always starts as its authors' does"):
        small_maetok.config(local_init=True)
    without = small_maetok.config(mask_token=False, auxiliary=None)
    network = functional(MAETokModel, without)
    with pytest.raises(ValueError, match=r"no mask token; set model\.mask_token=True"):
        jax.eval_shape(lambda params: network(params)(IMAGES, mask=jnp.zeros((2, 16), bool)), network.shapes)
    with pytest.raises(ValueError, match=r"has no auxiliary decoders; set model\.auxiliary"):
        functional(AuxiliaryDecoder, without, 3)
    with pytest.raises(ValueError, match="modulated is True, but the condition has no channels"):
        small = dict(width=32, depth=1, num_heads=2, patch_size=8)
        functional(ViT, ViTConfig(**small_maetok.DECODER | small), 32)
