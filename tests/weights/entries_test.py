"""One network's tensors out of wrapped, compiled, averaged and sharded files."""

import json
import logging

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import files
from softvq_jax.weights.entries import select_state_dict
from softvq_jax.weights.layout import WeightsError
from tests import small_tokenizers as small

ANCHORS = ("encoder.latent_tokens",)
NETWORK = {"encoder.latent_tokens": np.float32(1), "encoder.blocks.0.w": np.float32(2), "decoder.w": np.float32(3)}


def under(prefix, network=NETWORK, factor=1.0):
    """A network's tensors with a prefix, each multiplied by a factor."""
    return {f"{prefix}{key}": tensor * np.float32(factor) for key, tensor in network.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "model.", "_orig_mod.", "module._orig_mod.", "state_dict.", "state_dict.module.", "params."),
        *("net.", "ema.", "state_dict_ema.", "model_ema.module.", "anything.at.all."),
    ],
)
def test_a_prefix_is_found_by_the_anchor(prefix):
    found = select_state_dict(under(prefix) | {"optimizer.state.0.exp_avg": np.zeros(2)}, ANCHORS, source="file")
    assert NETWORK.items() <= found.items()


def test_compiled_parts_inside_a_network():
    compiled = {key.replace("encoder.", "encoder._orig_mod."): tensor for key, tensor in NETWORK.items()}
    assert select_state_dict(compiled, ANCHORS, source="file") == NETWORK


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("model.", "ema."),
        ("state_dict.", "state_dict_ema."),
        ("module.", "ema_model.module."),
        ("", "ema."),
        ("net.", "params_ema."),
    ],
)
def test_averaged_parameters_are_taken_and_said(raw, averaged, caplog):
    both = under(raw) | under(averaged, factor=10)
    with caplog.at_level(logging.INFO, logger="absl"):
        found = select_state_dict(both, ANCHORS, source="some.pth")
    assert found["decoder.w"] == 30
    assert "some.pth: taking the averaged parameters" in caplog.text
    # The other one, on request
    assert select_state_dict(both, ANCHORS, source="file", entry=raw.rstrip("."))["decoder.w"] == 3
    assert select_state_dict(both, ANCHORS, source="file", entry=averaged.rstrip("."))["decoder.w"] == 30


def test_no_clear_choice():
    several = under("first.") | under("second.")
    with pytest.raises(WeightsError, match=r"some\.pth holds this network several times, in 'first', 'second': choose"):
        select_state_dict(several, ANCHORS, source="some.pth")
    assert select_state_dict(several, ANCHORS, source="file", entry="second") == NETWORK
    with pytest.raises(
        WeightsError, match=r"some\.pth has no entry 'third' with this network; it has 'first', 'second'"
    ):
        select_state_dict(several, ANCHORS, source="some.pth", entry="third")


def test_the_longest_anchor_counts():
    tensors = {"dinov2.embeddings.cls_token": 1, "dinov2.layernorm.weight": 2}
    assert select_state_dict(tensors, ("cls_token", "embeddings.cls_token"), source="file") == {
        "embeddings.cls_token": 1,
        "layernorm.weight": 2,
    }


def save_sharded(folder, tensors):
    """Two files and an index, as `transformers` writes large models."""
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        files.write_safetensors(folder / file, {key: tensors[key] for key in part})
    weight_map = {key: file for file, part in parts.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return parts


@pytest.fixture
def tokenizer(tmp_path):
    """A published tokenizer in one file, opened."""
    return Tokenizer.from_pretrained(small.save_published(tmp_path / "whole", *small.published("vq")))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_sharded_safetensors(tmp_path, tokenizer):
    tensors, fields = small.published("vq")
    folder = small.save_published(tmp_path / "sharded", tensors, fields)
    (folder / "model.safetensors").unlink()
    parts = save_sharded(folder, tensors)
    assert_same(Tokenizer.from_pretrained(folder), tokenizer)
    assert_same(Tokenizer.from_pretrained(folder / "model.safetensors.index.json"), tokenizer)
    second = folder / list(parts)[1]
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json lists 'model-00002-of-00002\.safetensors', which is not"):
        Tokenizer.from_pretrained(folder)
    second.write_bytes(content)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for weight_map, message in (
        ({**index["weight_map"], "gone": second.name}, "lists a tensor 'gone' in 'model-00002-of-00002.safetensors'"),
        (
            {"a": "../elsewhere.safetensors"},
            "'../elsewhere.safetensors'; expected the name of a file in its own folder",
        ),
        (None, "has no weight_map"),
    ):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(WeightsError, match=message.replace(".", r"\.")):
            Tokenizer.from_pretrained(folder)


def test_a_file_with_and_without_a_config(tmp_path, tokenizer):
    tensors, _ = small.published("vq")
    files.write_safetensors(tmp_path / "step_100.safetensors", under("model.", tensors) | under("ema.", tensors, 2.0))
    averaged = Tokenizer.from_pretrained(tmp_path / "step_100.safetensors")
    assert_same(Tokenizer.from_pretrained(tmp_path / "step_100.safetensors", entry="model"), tokenizer)
    np.testing.assert_array_equal(averaged.params["to_latents"]["bias"], 2 * tokenizer.params["to_latents"]["bias"])
    with pytest.raises(FileNotFoundError, match=r"has no config\.json: not a tokenizer folder"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16, np.float16, np.float64]
)
def test_types_of_floats(dtype, tmp_path):
    """Values are those of the type, as float32; what is saved again has the type."""
    tensors, fields = small.published("vq")
    small_floats = {key: tensor.astype(dtype) for key, tensor in tensors.items()}
    folder = tmp_path / "small"
    folder.mkdir()
    write(folder / "model.safetensors", small_floats)
    (folder / "config.json").write_text(json.dumps(fields))
    opened = Tokenizer.from_pretrained(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(opened.params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(opened.params["to_latents"]["bias"], np.float32(small_floats["quant_conv.bias"]))
    if np.dtype(dtype).itemsize > 1:
        opened.save_pretrained(tmp_path / "again")
        again = safetensors.load_file(tmp_path / "again" / "model.safetensors")
        assert all(again[key].tobytes() == tensor.tobytes() for key, tensor in small_floats.items())


NAMES = {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "bfloat16": "BF16",
    "float16": "F16",
    "float64": "F64",
    "float32": "F32",
    "int8": "I8",
    "bool": "BOOL",
    "int64": "I64",
}


def write(path, tensors):
    """A safetensors file, byte by byte, with types that its library does not write from NumPy."""
    header, content = {}, b""
    for key, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        place = [len(content), len(content) + len(data)]
        header[key] = {"dtype": NAMES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": place}
        content += data
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + content)
