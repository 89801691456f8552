"""The table of pretrained networks agrees with the config, with itself, and with the step that uses it."""

import jax
import pytest

from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.weights import pretrained
from softvq_jax.weights.pretrained import NETWORKS, TRAINING
from tests.train.conftest import frozen_weights, tiny_config  # noqa: F401 (fixtures)


def set_field(config, setting):
    """Applies a setting as the messages give it: `gan.discriminator='none' (or ...)`."""
    field, value = setting.split(" ")[0].split("=")
    section, name = field.rsplit(".", 1)
    config[section][name] = {"''": "", "'none'": "none", "0": 0}[value]


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_can_be_configured_without_each_network(name):
    config = tokenizer_config("S", "S")
    assert NETWORKS[name].needed(config)
    set_field(config, NETWORKS[name].without)
    assert not NETWORKS[name].needed(config) and name not in pretrained.abstract(config).arguments


@pytest.mark.parametrize("name", NETWORKS)
def test_every_file_is_a_field_of_the_config(name):
    for file in NETWORKS[name].files:
        value = tokenizer_config()
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
