"""The published layout of masked token generators: what is read comes back key for key, bit for bit."""

import jax
import numpy as np
import pytest

from softvq_jax.weights import layout
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.maskgit import config_of, is_maskgit, maskgit_rules, published_fields
from tests import small_titok


@pytest.mark.parametrize("network", ["bert", "uvit"])
def test_round_trip(network):
    tensors, fields = small_titok.published(f"maskgit_{network}")
    assert is_maskgit(tensors)
    config = config_of(tensors, fields)
    assert (config.network, config.codebook_size, config.num_classes, config.width) == (network, 512, 1000, 128)
    rules = maskgit_rules(config)
    shapes = small_titok.functional(config).shapes
    assert len({rule.path for rule in rules}) == len(rules) == len(jax.tree.leaves(shapes))
    written = layout.write(rules, layout.read(rules, tensors, shapes, source="test"))
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(written[key], tensor, err_msg=key)


@pytest.mark.parametrize("network", ["bert", "uvit"])
def test_published_fields_give_the_shape_back(network):
    config = small_titok.generator_config(network, dropout=0.2)
    tensors = layout.write(maskgit_rules(config), small_titok.params(small_titok.functional(config)))
    fields = published_fields(config, {"num_steps": 8})
    assert config_of(tensors, fields) == config
    assert fields["model"]["generator"]["num_steps"] == 8


def test_refusals():
    tensors, fields = small_titok.published("maskgit_uvit")
    with pytest.raises(WeightsError, match=r"no model\.generator\.num_attention_heads"):
        config_of(tensors, {})
    del tensors["pos_embed"]
    with pytest.raises(WeightsError, match="no tensor 'pos_embed': not a masked token generator"):
        config_of(tensors, fields)
    assert not is_maskgit({"lm_head.weight": np.zeros(1)})
