"""SigLIP's files: both namings are one network, written back bit for bit; parity cases cover its numbers."""

import jax
import numpy as np
import pytest

from softvq_jax.config import load_config
from softvq_jax.models.dinov2 import resample_positions
from softvq_jax.models.functional import functional
from softvq_jax.models.siglip import SO400M, siglip_config
from softvq_jax.models.vit import ViT
from softvq_jax.weights import entries, files, layout, pretrained, siglip
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.vit import vit_rules
from tests.train.conftest import random_tensors

CONFIG = siglip_config(128, 2, 300, patch_size=8)
SHAPES = functional(ViT, CONFIG, 32).shapes
SIZES = dict(patch_size=8, image_size=32, source="test")


def hub_tensors():
    """Tensors of a file of the Hub, which has the text encoder and the pooling head too."""
    head = {"vision_model.head.probe": np.zeros((1, 1, 128), np.float32)}
    text = {"text_model.encoder.layers.0.mlp.fc1.weight": np.zeros((4, 2), np.float32)}
    return random_tensors(siglip.siglip_rules(CONFIG), SHAPES) | head | text | {"logit_scale": np.ones(1, np.float32)}


def read(tensors, **changes):
    return siglip.read_siglip(entries.select_state_dict(tensors, siglip.ANCHORS, source="test"), **SIZES | changes)


def test_the_hub_s_file_is_written_back():
    tensors = hub_tensors()
    arguments, params = read(tensors)
    assert arguments == (CONFIG, 32)
    written = layout.write(siglip.siglip_rules(CONFIG), params)
    for key, tensor in written.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)
    unread = tensors.keys() - written.keys()
    assert unread == {key for key in tensors if "head" in key or "text" in key or "scale" in key}


def test_timm_s_naming_is_the_same_network():
    _, params = read(hub_tensors())
    arguments, again = read(layout.write(vit_rules(CONFIG), params))
    assert arguments == (CONFIG, 32)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_so400m():
    """Heads of width 72; the sizes of the file at Hugging Face: 27 blocks and 16 x 16 patches of 14 pixels, 412 M."""
    config = siglip_config(*SO400M, patch_size=14)
    shapes = functional(ViT, config, 224).shapes
    assert config.num_heads == 16 and round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6) == 412
    assert pretrained.abstract(load_config("maetok_b128")).arguments["siglip"][0].num_heads == 16
    rules = {key: rule for rule in siglip.siglip_rules(config) for key in rule.keys}
    assert "vision_model.encoder.layers.26.self_attn.k_proj.weight" in rules and len(rules) == 5 + 27 * 16


def test_positions_without_a_class_token_are_resampled_as_with_one():
    positions = np.random.default_rng(0).standard_normal((1 + 36, 5), np.float32)
    expected = resample_positions(positions, 4)[1:]
    np.testing.assert_array_equal(resample_positions(positions[1:], 4, class_position=False), expected)
    with pytest.raises(ValueError, match="there are 37 positions; expected a square number"):
        resample_positions(positions, 4, class_position=False)


def small_config(path):
    config = load_config("maetok_b128")
    config.loss.update(perceptual_weight=0.0, dino_weight=0.0)
    config.gan.discriminator = "none"
    config.model.encoder.patch_size, config.model.image_size = 8, 32
    config.weights.siglip = str(path)
    return config


def test_a_run_reads_it_or_does_without(tmp_path):
    path = tmp_path / "siglip.safetensors"
    files.write_safetensors(path, hub_tensors())
    loaded = pretrained.load(small_config(path))
    assert loaded.arguments == {"siglip": (CONFIG, 32)}
    with pytest.raises(pretrained.MissingWeights, match=r"(?s)weights\.siglip='.*gone.*siglip-so400m.*clip_weight=0"):
        pretrained.load(small_config(tmp_path / "gone.safetensors"))
    config = small_config(tmp_path / "gone.safetensors")
    config.loss.clip_weight = 0.0
    assert pretrained.load(config).arguments == {}


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors: {}, "have no tensor"),
    (lambda tensors: {k: v for k, v in tensors.items() if not k.endswith("layers.1.mlp.fc2.weight")}, "layers.1.mlp.fc2"),
    (lambda tensors: {k: v[:15] if "position" in k else v for k, v in tensors.items()}, "15 positions; expected a square"),
])  # fmt: skip
def test_other_files_are_refused(change, message, tmp_path):
    files.write_safetensors(tmp_path / "x.safetensors", change(hub_tensors()) or {"x": np.zeros(1, np.float32)})
    with pytest.raises(WeightsError, match=message):
        pretrained.load(small_config(tmp_path / "x.safetensors"))
