"""TiTok's published layout: what is read comes back key for key, bit for bit."""

import jax
import numpy as np
import pytest

from softvq_jax.weights import layout
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.titok import config_of, is_titok, published_fields, tokenizer_rules
from tests import small_titok


@pytest.fixture(scope="module", params=small_titok.KINDS)
def published(request):
    return request.param, *small_titok.published(small_titok.PUBLISHED[request.param])


def test_round_trip(published):
    _, tensors, fields = published
    assert is_titok(tensors)
    config = config_of(tensors, fields)
    rules = tokenizer_rules(config)
    params = layout.read(rules, tensors, small_titok.functional(config).shapes, source="test")
    written = layout.write(rules, params)
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(written[key], tensor, err_msg=key)


def test_shape_is_read_from_tensors(published):
    kind, tensors, fields = published
    config = config_of(tensors, fields, dtype="bfloat16")
    assert (config.encoder.width, config.encoder.depth, config.encoder.num_heads) == (64, 8, 1)
    assert (config.image_size, config.decoder.patch_size, config.dtype) == (256, 16, "bfloat16")
    vq_model = fields["model"]["vq_model"]
    assert config.num_latent_tokens == vq_model["num_latent_tokens"] and config.latent_dim == vq_model["token_size"]
    assert config.two_stage == (kind == "two_stage") and config.discrete == (kind != "vae")
    assert config.l2_normalize or kind != "two_stage"
    assert config_of(tensors, {}, dtype="bfloat16") == config  # One-D-Piece has no config.json


@pytest.mark.parametrize("kind", small_titok.KINDS)
def test_published_fields_give_the_shape_back(kind):
    config = small_titok.config(kind, l2_normalize=kind != "vq")
    rules = tokenizer_rules(config)
    tensors = layout.write(rules, small_titok.params(small_titok.functional(config)))
    assert config_of(tensors, published_fields(config)) == config


def test_every_kind_has_rules_for_all_parameters(published):
    """The rules name every tensor of the file and every leaf of the network once."""
    _, tensors, fields = published
    config = config_of(tensors, fields)
    rules = tokenizer_rules(config)
    assert len({rule.path for rule in rules}) == len(rules)
    assert len(jax.tree.leaves(small_titok.functional(config).shapes)) == len(rules)


def test_refusals():
    tensors, fields = small_titok.published("titok_ss_64_vq8k")
    with pytest.raises(WeightsError, match=r"is_legacy True, but the decoder's head gives pixels"):
        config_of(tensors, {"model": {"vq_model": {"is_legacy": True}}})
    two_stage, legacy = small_titok.published("titok_s_128")
    first_stage = {key: tensor for key, tensor in two_stage.items() if not key.startswith("pixel_decoder.")}
    with pytest.raises(WeightsError, match="no pixel_decoder"):
        config_of(first_stage, legacy)
    del tensors["decoder.ffn.0.weight"]
    with pytest.raises(WeightsError, match=r"no tensor 'decoder\.ffn\.0\.weight': not a TiTok tokenizer"):
        config_of(tensors, fields)
    assert not is_titok({"encoder.latent_tokens": np.zeros(1)})
