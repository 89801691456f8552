"""MAETok's published layout: what is read comes back key for key, bit for bit; and images of other sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.models.functional import functional
from softvq_jax.models.maetok import AuxiliaryDecoder
from softvq_jax.weights import layout, tokenizer_kinds
from softvq_jax.weights import maetok as weights
from softvq_jax.weights.layout import WeightsError
from tests import small_maetok, small_titok, small_tokenizers


@pytest.fixture(scope="module", params=["maetok_s_128", "maetok_losses_s"])
def published(request):
    return request.param, *small_maetok.published(request.param)


def opened(tensors, fields):
    config = weights.config_of(tensors, fields)
    network = tokenizer_kinds.network(config)
    return config, network, layout.read(weights.tokenizer_rules(config), tensors, network.shapes, source="test")


def test_there_and_back(published):
    name, tensors, fields = published
    assert weights.is_maetok(tensors)
    config, _, params = opened(tensors, fields)
    written = layout.write(weights.tokenizer_rules(config), params)
    for key, tensor in written.items():
        np.testing.assert_array_equal(tensors[key], tensor, err_msg=key)
    unused = tensors.keys() - written.keys()
    others = ("repa_model.", *small_maetok.AUXILIARY_PREFIXES)
    assert {key for key in unused if not key.startswith(others)} == weights.unused_tensors(config).keys()
    if name == "maetok_losses_s":
        for features, width in (("hog", 108), ("dino", 64)):
            rules = weights.auxiliary_rules(config, features)
            decoder = functional(AuxiliaryDecoder, config, width)
            theirs = layout.write(rules, layout.read(rules, tensors, decoder.shapes, source="test"))
            for key, tensor in theirs.items():
                np.testing.assert_array_equal(tensors[key], tensor, err_msg=key)
            unread = {key for key in unused - theirs.keys() if key.startswith(f"decoder_{features}.model.")}
            parts = ("pos_embed", "patch_embed.proj.", "norm.adaLN_modulation.1.", "head.")
            assert all(key.split(".model.")[1].startswith(parts) for key in unread)


def test_shape_is_read_from_tensors(published):
    name, tensors, fields = published
    config = weights.config_of(tensors, fields, dtype="bfloat16")
    changes = {"auxiliary": None} if name == "maetok_s_128" else {}
    assert config == small_maetok.config(dtype="bfloat16", **changes)
    assert weights.config_of(tensors, fields | {"rope_theta": 100.0}).encoder.rope_theta == 100.0
    del tensors["encoder.mask_token"]
    assert not weights.config_of(tensors, fields).mask_token


def test_published_fields_give_the_shape_back():
    config = small_maetok.config(auxiliary=None)
    params = small_titok.params(tokenizer_kinds.network(config))
    tensors = layout.write(weights.tokenizer_rules(config), params) | weights.unused_tensors(config)
    assert weights.config_of(tensors, weights.published_fields(config)) == config
    theirs, _ = small_maetok.published("maetok_s_128")
    assert {key: tensor.shape for key, tensor in tensors.items()} == {key: t.shape for key, t in theirs.items()}
    np.testing.assert_array_equal(tensors["encoder.freqs_t_x"], theirs["encoder.freqs_t_x"])
    np.testing.assert_array_equal(tensors["decoder.freqs_t_y"], theirs["decoder.freqs_t_y"])


@pytest.mark.parametrize("size", [32, 40, 64])
def test_images_of_another_size(size):
    tensors, fields = small_maetok.published()
    resized = weights.resized(tensors, size)
    assert resized.keys() == tensors.keys()
    config = weights.config_of(resized, fields)
    assert config == small_maetok.config(image_size=size)
    changed = {key for key in tensors if not np.array_equal(tensors[key], resized[key])}
    moved = {key for key in tensors if key.endswith((".freqs_t_x", ".freqs_t_y", ".pos_embed"))}
    moved -= {"repa_model.pos_embed"}
    moved -= {key for key in moved if key.endswith("latent_pos_embed")}
    assert changed == (set() if size == 32 else moved)
    grid = size // 8
    np.testing.assert_array_equal(resized["decoder.freqs_t_x"], np.tile(np.arange(grid), grid))
    np.testing.assert_array_equal(resized["decoder.freqs_t_y"], np.repeat(np.arange(grid), grid))


def test_opens_at_a_size_between():
    tensors, fields = small_maetok.published()
    config, network, params = opened(weights.resized(tensors, 40), fields)
    images = jnp.asarray(small_tokenizers.images(1, 40))

    @jax.jit
    def reconstruct(params):
        model = network(params)
        latents = model.encode(images)
        return latents, model.decode(latents)

    latents, reconstructions = reconstruct(params)
    assert config.image_size == 40 and latents.shape == (1, 8, 32) and reconstructions.shape == images.shape
    assert np.isfinite(reconstructions).all()


def test_refusals():
    tensors, fields = small_maetok.published()
    for size in (36, 0):
        with pytest.raises(WeightsError, match=rf"image_size is {size}; expected a multiple of the patch size, 8"):
            weights.resized(tensors, size)
    softvq, _ = small_tokenizers.published("softvq")
    assert not weights.is_maetok(softvq)
    with pytest.raises(WeightsError, match="for images of one size only"):
        weights.resized(softvq, 64)
    del tensors["decoder.to_pixel.model.weight"]
    with pytest.raises(WeightsError, match=r"no tensor 'decoder\.to_pixel\.model\.weight': not a MAETok tokenizer"):
        weights.config_of(tensors, fields)
