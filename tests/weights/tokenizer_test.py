"""Tokenizer files: published and own tokenizers are restored bit for bit, and damaged files are refused."""

import json
import logging
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import files
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.tokenizer import config_of
from softvq_jax.weights.tokenizer_files import OWN_CONFIG
from tests import small_tokenizers as small

EXTRA = {  # what the release's training code may leave in a file
    "num_updates": np.int64(2**40 + 1),
    "loss.discriminator.heads.0.0.1.num_batches_tracked": np.asarray(7),
    "repa_model.half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "mask": np.array([True, False]),
    "double": np.array([1e-300, 0.1]),
}


def assert_same_files(ours, theirs):
    """Every tensor's bits, names and shapes; and the fields of `config.json`."""
    a, b = (safetensors.load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert a.keys() == b.keys()
    for key in a:
        assert (a[key].dtype, a[key].shape, a[key].tobytes()) == (b[key].dtype, b[key].shape, b[key].tobytes()), key
    assert json.loads((ours / "config.json").read_text()) == json.loads((theirs / "config.json").read_text())
    assert {path.name for path in ours.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("bottleneck", small.PUBLISHED)
def test_published_files_round_trip(bottleneck, tmp_path):
    tensors, fields = small.published(bottleneck)
    theirs = small.save_published(tmp_path / "theirs", tensors | EXTRA, fields)
    tokenizer = Tokenizer.from_pretrained(theirs)
    assert tokenizer.config.bottleneck == bottleneck
    assert (tokenizer.latent_mean, tokenizer.latent_std) == (0.01, 0.07)
    tokenizer.save_pretrained(tmp_path / "ours")
    assert_same_files(tmp_path / "ours", theirs)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_published_in_half_precision(dtype, tmp_path):
    """The parameters are float32 nevertheless, because a float16 codebook would underflow when it is normalized."""
    tensors, fields = small.published("softvq")
    tensors["quantize.embedding"] *= 1e-4
    half = {key: tensor.astype(dtype) for key, tensor in tensors.items()}
    full = "encoder.model.blocks.1.attn.qkv.weight"  # beside block 0's in half precision
    half[full] = tensors[full]
    tokenizer = Tokenizer.from_pretrained(small.save_published(tmp_path / "theirs", half, fields))
    assert {leaf.dtype for leaf in jax.tree.leaves(tokenizer.params)} == {np.dtype(np.float32)}
    assert np.isfinite(tokenizer.encode(small.images())).all()
    tokenizer.save_pretrained(tmp_path / "ours")
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")


def test_shapes_take_precedence_over_the_config(tmp_path):
    """The published softvq-l-32 declares a B encoder but has an L one; image size and token counts are also inferred."""
    tensors, fields = small.published("softvq", encoder_width=128, grid=6)
    fields |= {"encoder_model": "vit_small_patch14_dinov2.lvd142m", "image_size": 32, "num_latent_tokens": 2}
    tokenizer = Tokenizer.from_pretrained(small.save_published(tmp_path / "theirs", tensors, fields))
    config = tokenizer.config
    assert (config.encoder.width, config.encoder.num_heads, config.decoder.width) == (128, 2, 64)
    assert (config.image_size, config.num_latent_tokens) == (48, small.NUM_TOKENS)
    assert tokenizer.reconstruct(small.images(1, 48)).shape == (1, 48, 48, 3)
    tokenizer.save_pretrained(tmp_path / "ours")
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")


def test_unused_tensors_are_logged_once(tmp_path, caplog):
    """Except those that every file of this kind has."""
    tensors, fields = small.published("softvq")
    folder = small.save_published(tmp_path / "theirs", tensors, fields)
    with caplog.at_level(logging.INFO, logger="absl"):
        Tokenizer.from_pretrained(folder)
    (line,) = [record.getMessage() for record in caplog.records if "not used by the tokenizer" in record.getMessage()]
    assert "repa_model.cls_token" in line and "decoder.model.patch_embed" not in line
    assert "quantize.codebook_used" in line and "quantize.embedding" not in line


ODD_SHAPES = {
    "heads": dict(encoder=small.vit(num_heads=2), decoder=small.vit(width=24, num_heads=3, mlp_ratio=2.0)),
    "blocks": dict(encoder=small.vit(depth=2, drop_path=0.1, layer_scale=None), decoder=small.vit(layer_scale=0.1)),
    "registers": dict(encoder=small.vit(num_registers=3, activation="swiglu")),
    "tiny patches": dict(encoder=small.vit(patch_size=16), decoder=small.vit(patch_size=4)),
    "vq": dict(bottleneck="vq"),
    "vq of one codebook": dict(bottleneck="vq", num_codebooks=1, l2_normalize=False),
    "simvq": dict(bottleneck="simvq", train_codebook=True),
    "simvq of one codebook": dict(bottleneck="simvq", num_codebooks=1),
    "paper": dict(posterior="paper", temperature=0.5),
    "kl": dict(bottleneck="kl"),
    "ae": dict(bottleneck="ae"),
}


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_our_tokenizers_round_trip(shape, tmp_path):
    config = small.config(**ODD_SHAPES[shape])
    ours = Tokenizer(config, small.params(config))
    ours.save_pretrained(tmp_path / "tokenizer")
    again = Tokenizer.from_pretrained(tmp_path)  # as a run's workdir
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)
    again.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "tokenizer").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_compute_options_are_chosen_when_opening(tmp_path):
    small.tokenizer(small.config("ae")).save_pretrained(tmp_path)
    config = Tokenizer.from_pretrained(tmp_path, dtype="bfloat16", remat="full").config
    assert config == small.config("ae", dtype="bfloat16", remat="full")


def test_saving_over_another_tokenizer(tmp_path):
    """No field of the previous tokenizer is kept."""
    small.tokenizer(small.config("ae")).save_pretrained(tmp_path / "ours")
    theirs = small.save_published(tmp_path / "theirs", *small.published("ae"))
    Tokenizer.from_pretrained(theirs).save_pretrained(tmp_path / "ours")
    assert_same_files(tmp_path / "ours", theirs)


@pytest.fixture
def folder(tmp_path):
    """A published tokenizer, to be broken."""
    return small.save_published(tmp_path / "theirs", *small.published("vq"))


def refused(folder, error, message):
    with pytest.raises(error, match=message):
        Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_missing_files(folder, file):
    (folder / file).unlink()
    refused(folder, FileNotFoundError, f"{folder} has no {file}: not a tokenizer folder")


def test_missing_folder(tmp_path):
    refused(tmp_path / "gone", FileNotFoundError, "there is no file or folder '.*gone'")


def test_truncated_tensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, WeightsError, r"model\.safetensors \([\d,]+ bytes\) is cut short or damaged")


def test_malformed_config(folder):
    (folder / "config.json").write_text('{"tau": 0.07,')
    refused(folder, WeightsError, r"config\.json is not valid JSON")
    (folder / "config.json").write_text("[]")
    refused(folder, WeightsError, r"config\.json holds a JSON list; expected an object of fields")


def test_config_of_ours_with_unknown_or_missing_fields(tmp_path):
    small.tokenizer(small.config("ae")).save_pretrained(tmp_path)
    fields = files.read_json(tmp_path / OWN_CONFIG)
    files.write_json(tmp_path / OWN_CONFIG, fields | {"num_latents": 8})
    refused(tmp_path, WeightsError, rf"{OWN_CONFIG} does not hold the fields of a tokenizer: .*'num_latents'")
    files.write_json(tmp_path / OWN_CONFIG, {key: fields[key] for key in fields if key != "decoder"})
    refused(tmp_path, WeightsError, rf"{OWN_CONFIG} does not hold the fields of a tokenizer: 'decoder'")


def test_weights_of_another_size(tmp_path):
    """The first mismatching key, and both shapes."""
    small.tokenizer(small.config("ae")).save_pretrained(tmp_path)
    other = small.config("ae", encoder=small.vit(width=64))
    Tokenizer(other, small.params(other)).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    message = r"'encoder\.model\.cls_token' has shape \(1, 1, 64\), but this network's is \(1, 1, 32\)"
    refused(tmp_path, WeightsError, message)


def test_every_missing_tensor_is_named():
    tensors, fields = small.published("vq")
    used = [key for key in tensors if not key.startswith(("decoder.model.patch_embed", "quantize."))]
    for key in used:
        others = {name: tensor for name, tensor in tensors.items() if name != key}
        with pytest.raises(WeightsError, match=re.escape(f"no tensor '{key}'")):
            Tokenizer.from_tensors(config_of(others, fields), others, source="test")


def test_not_a_tokenizer(folder):
    files.write_safetensors(folder / "model.safetensors", {"x": np.zeros(3, np.float32)})
    refused(folder, WeightsError, r"no tensor 'encoder\.latent_tokens': not a SoftVQ-VAE tokenizer")


def test_failed_save_leaves_the_old_one(folder, tmp_path, monkeypatch):
    tokenizer = Tokenizer.from_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_null_in_a_published_config_is_the_default(tmp_path):
    tensors, fields = small.published("softvq")
    folder = small.save_published(tmp_path / "theirs", tensors, dict.fromkeys(fields))
    config = Tokenizer.from_pretrained(folder).config
    assert (config.temperature, config.l2_normalize) == (0.07, True)
    assert Tokenizer.from_pretrained(folder).latent_mean is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"tau": "0.07"},
            "tau is '0.07'; expected a number above 0, or null for the default",
        ),
        ({"codebook_l2_norm": 1}, "codebook_l2_norm is 1; expected True or False, or null for the default"),
        (
            {"vq_mean": "abc"},
            "vq_mean is 'abc'; expected a number, or a list of them for the channels, or null",
        ),
        (
            {"vq_std": 0},
            "vq_std is 0; expected a number above 0, or a list of them for the channels, or null",
        ),
        ({"image_size": [256]}, r"image_size is \[256\]; expected an integer of at least 1"),
    ],
)
def test_wrong_values_in_a_published_config(fields, message, tmp_path):
    tensors, published = small.published("softvq")
    folder = small.save_published(tmp_path / "theirs", tensors, published | fields)
    refused(folder, WeightsError, rf"the config\.json of .*theirs.*: {message}")


def test_blocks_that_the_config_does_not_have(tmp_path):
    config = small.config("ae", encoder=small.vit(depth=2))
    Tokenizer(config, small.params(config)).save_pretrained(tmp_path)
    fields = files.read_json(tmp_path / OWN_CONFIG)
    fields["encoder"]["depth"] = 1
    files.write_json(tmp_path / OWN_CONFIG, fields)
    refused(tmp_path, WeightsError, r"has 'encoder\.model\.blocks\.1\..*', which this network does not use")
