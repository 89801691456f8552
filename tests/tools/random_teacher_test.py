import pytest

from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.tools import random_teacher
from softvq_jax.tools.command_line import exit_code
from softvq_jax.weights import files, pretrained


def _write(*flags):
    return exit_code(random_teacher.main, random_teacher.parse_flags(["random_teacher", *map(str, flags)]))


@pytest.mark.slow
def test_the_file_is_a_dinov2_of_its_seed_that_training_takes(tmp_path, capsys):
    path = tmp_path / "teacher.safetensors"
    assert _write("--seed=3", "--out", path) == 0 and "DINOv2-S with random weights, seed 3" in capsys.readouterr().out
    tensors = files.read_tensors(path)
    # Shapes and number of parameters of dinov2_vits14, but for its mask token, which nothing reads.
    assert tensors["pos_embed"].shape == (1, 1370, 384) and tensors["blocks.11.mlp.fc1.weight"].shape == (1536, 384)
    assert tensors["patch_embed.proj.weight"].shape == (384, 3, 14, 14)
    assert sum(tensor.size for tensor in tensors.values()) == 22_056_576 - 384

    config = tokenizer_config("S", "S")
    config.model.image_size = 64
    config.model.encoder.patch_size = 8
    config.weights.update(teacher=str(path), encoder="")
    config.loss.perceptual_weight, config.gan.discriminator = 0.0, "none"
    loaded = pretrained.load(config)
    teacher, image_size = loaded.arguments["teacher"]
    assert (teacher.width, teacher.depth, image_size) == (384, 12, 64)
    assert loaded.params["teacher"]["pos_embed"].shape == (1 + 8 * 8, 384)


@pytest.mark.slow
def test_weights_depend_on_the_seed(monkeypatch):
    monkeypatch.setitem(random_teacher.VIT_SIZES, "S", (32, 1, 2))
    weight = "blocks.0.attn.qkv.weight"
    first, again, other = (random_teacher.random_teacher("S", seed)[weight] for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any() and first.std() > 0


def test_another_ending_is_refused(tmp_path, capsys):
    assert _write("--out", tmp_path / "teacher.pth") == 1
    assert "expected a name ending in .safetensors" in capsys.readouterr().err
