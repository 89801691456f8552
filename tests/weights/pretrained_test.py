"""The table of pretrained networks agrees with the config, with itself, and with the step that uses it."""

import jax
import numpy as np
import pytest

from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.weights import files, pretrained
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.pretrained import NETWORKS, TRAINING
from tests.train.conftest import frozen_weights, tiny_config  # noqa: F401 (fixtures)

KIND = {"siglip": "maetok"}  # of tokenizers that use a network


def set_field(config, setting):
    """Applies a setting as the messages give it: `gan.discriminator='none' (or ...)`."""
    field, value = setting.split(" ")[0].split("=")
    section, name = field.rsplit(".", 1)
    config[section][name] = {"''": "", "'none'": "none", "0": 0}[value]


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_can_be_configured_without_each_network(name):
    config = tokenizer_config("S", "S", kind=KIND.get(name, "softvq"))
    assert NETWORKS[name].needed(config)
    set_field(config, NETWORKS[name].disable_setting)
    assert not NETWORKS[name].needed(config) and name not in pretrained.abstract(config).arguments


@pytest.mark.parametrize("name", NETWORKS)
def test_every_file_is_a_field_of_the_config(name):
    for file in NETWORKS[name].files:
        value = tokenizer_config(kind=KIND.get(name, "softvq"))
        for part in file.field.split("."):
            value = value[part]
        assert value and file.source


def test_shapes_of_files_and_without_files_agree(tiny_config, frozen_weights):  # noqa: F811
    config = tiny_config
    config.weights.update(frozen_weights)
    config.loss.update(perceptual_weight=1.0, alignment_weight=0.1)
    loaded, expected = pretrained.load(config), pretrained.abstract(config)
    assert loaded.arguments.keys() == loaded.params.keys() == expected.params.keys() == {"encoder", "teacher", "lpips"}
    for name in ("encoder", "lpips"):
        assert loaded.arguments[name] == expected.arguments[name]
        shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
        assert shapes(loaded.params[name]) == shapes(expected.params[name])


@pytest.mark.parametrize("field", ["lpips_trunk", "lpips_heads"])
def test_a_missing_file_is_named_with_its_own_field_and_source(field, tiny_config, frozen_weights, tmp_path):  # noqa: F811
    config = tiny_config
    config.weights.update({**frozen_weights, field: str(tmp_path / "gone.pth")})
    config.loss.perceptual_weight = 1.0
    with pytest.raises(pretrained.MissingWeights) as error:
        pretrained.load(config)
    source = {"lpips_trunk": "timm/vgg16", "lpips_heads": "richzhang/PerceptualSimilarity"}[field]
    for part in ("gone.pth", f"config.weights.{field}", source, "--config.loss.perceptual_weight=0"):
        assert part in str(error.value)


def test_an_empty_field_says_what_to_set(tiny_config):  # noqa: F811
    tiny_config.loss.alignment_weight, tiny_config.weights.teacher = 0.1, ""
    with pytest.raises(pretrained.MissingWeights, match=r"config\.weights\.teacher is empty.*loss\.alignment_weight=0"):
        pretrained.load(tiny_config)


def encoder_run(config, path):
    """A config that reads only an encoder, with the shape of the fixture's file."""
    config.weights.encoder = str(path)
    config.model.encoder.update(layer_scale=1e-5)
    return config


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_networks_in_half_precision_are_float32(dtype, tiny_config, frozen_weights, tmp_path):  # noqa: F811
    config = tiny_config
    config.loss.update(perceptual_weight=1.0, alignment_weight=0.1)
    halves = {}
    for field, path in frozen_weights.items():
        halves[field] = str(tmp_path / f"{field}.safetensors")
        half = {key: tensor.astype(dtype) for key, tensor in files.read_tensors(path).items()}
        files.write_safetensors(halves[field], half)
    config.weights.update(halves)
    for name, params in pretrained.load(config).params.items():
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 1}, r"weights\.encoder has 'blocks\.1\.attn\.proj\.bias', which this network does not use"),
        ({"depth": 3}, r"weights\.encoder has no tensor 'blocks\.2\.norm1\.weight'"),
        ({"layer_scale": None}, r"weights\.encoder has 'blocks\.0\.ls1\.gamma', which this network does not use"),
        ({"num_registers": 4}, r"weights\.encoder has no tensor 'register_tokens'"),
    ],
)
def test_an_encoder_of_another_shape_is_never_cut(change, message, tiny_config, frozen_weights):  # noqa: F811
    config = encoder_run(tiny_config, frozen_weights["encoder"])
    assert "encoder" in pretrained.load(config).params
    config.model.encoder.update(change)
    with pytest.raises(WeightsError, match=message):
        pretrained.load(config)


def test_registers_are_refused_or_taken_by_choice(tiny_config, frozen_weights, tmp_path):  # noqa: F811
    registers = {"register_tokens": np.zeros((1, 4, 64), np.float32)}
    path = tmp_path / "registers.safetensors"
    files.write_safetensors(path, files.read_tensors(frozen_weights["encoder"]) | registers)
    config = encoder_run(tiny_config, path)
    with pytest.raises(WeightsError, match=r"weights\.encoder has 'register_tokens', which this network does not use"):
        pretrained.load(config)
    config.model.encoder.num_registers = 4
    assert pretrained.load(config).params["encoder"]["registers"].shape == (4, 64)


def test_one_network_of_a_file_with_several(tiny_config, frozen_weights, tmp_path):  # noqa: F811
    """DINO saves student and teacher, which is its average; `FILE#ENTRY` names one of them."""
    dino = files.read_tensors(frozen_weights["encoder"])
    both = {f"student.module.backbone.{key}": tensor for key, tensor in dino.items()}
    both |= {f"teacher.backbone.{key}": 2 * tensor for key, tensor in dino.items()}
    files.write_safetensors(tmp_path / "dino.safetensors", both)
    for suffix, factor in (("", 2), ("#teacher", 2), ("#student", 1)):
        config = encoder_run(tiny_config, f"{tmp_path / 'dino.safetensors'}{suffix}")
        bias = pretrained.load(config).params["encoder"]["transformer"]["norm"]["bias"]
        np.testing.assert_array_equal(bias, factor * dino["norm.bias"])
