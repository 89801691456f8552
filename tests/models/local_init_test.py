"""The local initialization: before any training, a latent is a code of its own patches."""

import dataclasses

import jax
import numpy as np
import pytest

from softvq_jax.models.functional import functional
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.models.vit import ViTConfig

VIT = ViTConfig(width=64, depth=2, num_heads=2, patch_size=8, layer_scale=1.0)


# Number of latents, changed patch, and the latent that changes most.
SIZES = [(8, 5, 2), (4, 5, 1), (32, 5, 10)]


def changed_tokens(local_init: bool, num_latent_tokens: int = 16, patch: int = 5, vit: ViTConfig = VIT):
    """Returns the change of every latent, and of every patch of the reconstruction, when one patch of the image changes."""
    config = TokenizerConfig(
        vit,
        vit,
        image_size=32,
        num_latent_tokens=num_latent_tokens,
        latent_dim=16,
        codebook_size=64,
        local_init=local_init,
    )
    network = functional(TokenizerModel, config)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    images[1] = images[0]
    row, column = divmod(patch, 4)
    images[1, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1.0
    out = jax.jit(lambda images: network(network.init(jax.random.key(0))[0])(images))(images)
    latents, decoded = np.asarray(out.bottlenecked.latents), np.asarray(out.decoded)
    return (np.linalg.norm(x[1] - x[0], axis=-1) for x in (latents, decoded))


@pytest.mark.slow
def test_a_patch_changes_its_own_latent_and_its_own_patch_of_the_reconstruction():
    latents, decoded = changed_tokens(local_init=True)
    assert latents.argmax() == 5 and latents[5] > 5 * np.delete(latents, 5).max()
    assert decoded.argmax() == 5 and decoded[5] > 5 * np.delete(decoded, 5).max()


@pytest.mark.slow
def test_with_the_usual_initialization_a_patch_changes_all_latents_equally():
    latents, _ = changed_tokens(local_init=False)
    assert latents.max() < 5 * np.median(latents)


@pytest.mark.slow
@pytest.mark.parametrize(("num_latent_tokens", "patch", "latent"), SIZES)
def test_fewer_or_more_latents_than_patches(num_latent_tokens, patch, latent):
    latents, _ = changed_tokens(True, num_latent_tokens, patch)
    assert latents.argmax() in (latent, latent + (num_latent_tokens > 16))


@pytest.mark.slow
def test_heads_whose_width_is_odd():
    latents, _ = changed_tokens(True, 8, vit=dataclasses.replace(VIT, width=60, num_heads=4))
    assert latents.argmax() == 2


@pytest.mark.parametrize("heads", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_latent_of_two_patches_tells_them_apart_if_it_has_two_heads(heads):
    """The same change of one or the other patch, in an image whose patches are all equal."""
    vit = dataclasses.replace(VIT, num_heads=heads)
    shape = dict(image_size=32, num_latent_tokens=8, latent_dim=16, codebook_size=64)
    network = functional(TokenizerModel, TokenizerConfig(vit, vit, local_init=True, **shape))
    patch = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3)).astype(np.float32)
    images = np.tile(patch, (3, 4, 4, 1))
    images[1, 8:16, 0:8] = images[2, 8:16, 8:16] = 1.0  # patches 4 and 5

    @jax.jit
    def inputs(images):
        model = network(network.init(jax.random.key(0))[0])
        return model.to_latents(model.encoder(images))

    tokens = np.asarray(inputs(images))
    changes = tokens[1:] - tokens[0]
    assert (np.linalg.norm(changes, axis=-1).argmax(axis=1) == 2).all()
    first, second = changes[:, 2]
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert (cosine < 0.5) == (heads == 2), cosine
