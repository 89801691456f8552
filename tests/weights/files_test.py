"""Finding, reading and writing weight files."""

import json
import pathlib
import sys
import types

import huggingface_hub
import numpy as np
import pytest
from safetensors import numpy as safetensors

from softvq_jax.weights import files
from softvq_jax.weights.layout import WeightsError

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(2, np.float16),
    "count": np.asarray(3),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path_factory, monkeypatch):
    """The working folder of the tests: where a clone has been used, `runs/tiny` exists."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub's two calls, recorded."""
    calls = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: calls.append((a, k)) or tmp_path / "file")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: calls.append((a, k)) or tmp_path)
    return calls


def test_local_paths_need_no_hub(tmp_path, hub, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path, str(tmp_path), "owner/name", pathlib.Path("owner")):
        assert files.resolve(name) == pathlib.Path(name)
    assert not hub


@pytest.mark.parametrize("name", ["SoftVQVAE/softvq-l-64", "hf://SoftVQVAE/softvq-l-64"])
def test_repository_on_the_hub(name, hub, tmp_path):
    assert files.resolve(name) == tmp_path
    (((repository,), options),) = hub
    assert repository == "SoftVQVAE/softvq-l-64"
    assert {"*.json", "*.safetensors"} == set(options["allow_patterns"])  # softvq_jax.json too


def test_file_on_the_hub(hub, tmp_path):
    assert files.resolve("hf://timm/vgg16.tv_in1k/weights/model.safetensors") == tmp_path / "file"
    assert hub == [(("timm/vgg16.tv_in1k", "weights/model.safetensors"), {})]


@pytest.mark.parametrize("name", ["gone", "runs/tiny/tokenizer", "/gone/model.safetensors"])
def test_names_that_can_only_be_paths(name, hub):
    with pytest.raises(
        FileNotFoundError, match=f"teacher: there is no file or folder '{name}', and it is not a hub id"
    ):
        files.resolve(name, purpose="teacher")
    assert not hub


def test_half_a_hub_id(hub):
    with pytest.raises(FileNotFoundError, match="weights: hf://timm should be hf://owner/name or hf://owner/name/file"):
        files.resolve("hf://timm")


@pytest.mark.parametrize("name", ["runs/tiny", "hf://runs/tiny", "hf://runs/tiny/model.safetensors"])
def test_no_network(name, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Name or service\nnot known")

    for call in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, call, offline)
    with pytest.raises(FileNotFoundError) as error:
        files.resolve(name, purpose="tokenizer")
    message = str(error.value)
    assert message.startswith(f"tokenizer: '{name}' is not a local file or folder, and could not be downloaded")
    assert "download it elsewhere from huggingface.co/runs/tiny and give its path" in message
    assert message.endswith("(ConnectionError: Name or service not known)")


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    files.write_safetensors(path, TENSORS | {"strided": TENSORS["a"].T})
    read = files.read_tensors(path)
    for key, tensor in (TENSORS | {"strided": TENSORS["a"].T}).items():
        assert (read[key].dtype, read[key].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(read[key], tensor)
    # What `transformers` and PyTorchModelHubMixin look for before they open a file.
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_truncated_safetensors(kept, tmp_path):
    path = tmp_path / "model.safetensors"
    files.write_safetensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:kept])
    message = rf"model\.safetensors \({path.stat().st_size} bytes\) is cut short or damaged .* download it again"
    with pytest.raises(WeightsError, match=message):
        files.read_tensors(path)


def test_files_that_are_not_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*gone\.safetensors"):
        files.read_tensors(tmp_path / "gone.safetensors")
    (tmp_path / "model.h5").touch()
    with pytest.raises(WeightsError, match=r"unknown ending '\.h5'; expected \.safetensors, \.pth, \.pt or \.bin"):
        files.read_tensors(tmp_path / "model.h5")


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
def test_pytorch_files_name_the_extra(ending, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    path = tmp_path / f"model{ending}"
    path.touch()
    with pytest.raises(ImportError, match=r"pip install 'softvq-jax\[torch\]'.* or convert it to \.safetensors"):
        files.read_tensors(path)


class Tensor:
    """The part of `torch.Tensor` that reading uses; NumPy has no bfloat16."""

    def __init__(self, array, dtype="float32", *, is_quantized=False, layout="strided"):
        self.array, self.dtype, self.is_quantized, self.layout = array, dtype, is_quantized, layout

    def detach(self):
        return self

    def float(self):
        return Tensor(np.float32(self.array))

    def numpy(self):
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.fixture
def torch(monkeypatch):
    """A substitute for torch; its `load` returns `torch.content`."""
    stand_in = types.SimpleNamespace(Tensor=Tensor, strided="strided", content=None)

    def load(path, map_location, weights_only):
        assert weights_only  # a pickle may run anything
        if isinstance(stand_in.content, Exception):
            raise stand_in.content
        return stand_in.content

    stand_in.load = load
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    return stand_in


def test_pytorch_checkpoints(torch, tmp_path):
    """Nested dicts come flat, by their paths; what is no tensor is left out."""
    network = {"a": Tensor(TENSORS["a"]), "b": Tensor(np.ones(2), "bfloat16")}
    torch.content = {
        "c": Tensor(np.zeros(1)),
        "model": network,
        "optimizer": {"state": {0: {"m": Tensor(np.ones(3))}}},
        "epoch": 3,
    }
    (tmp_path / "model.pth").touch()
    tensors = files.read_tensors(tmp_path / "model.pth")
    assert tensors.keys() == {"c", "model.a", "model.b", "optimizer.state.0.m"}
    assert tensors["model.b"].dtype == np.float32
    np.testing.assert_array_equal(tensors["model.a"], TENSORS["a"])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(np.ones(2), is_quantized=True), "'layer.w' is quantized; expected a dense tensor of floats"),
        (Tensor(np.ones(2), layout="sparse_coo"), "'layer.w' is sparse; expected a dense tensor of floats"),
    ],
)
def test_unusual_pytorch_tensors(tensor, message, torch, tmp_path):
    torch.content = {"layer": {"w": tensor}}
    (tmp_path / "model.pth").touch()
    with pytest.raises(WeightsError, match=rf"model\.pth: {message}"):
        files.read_tensors(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({"epoch": 3}, r"holds no tensors \(epoch\); expected a state dict"),
        (EOFError("no more"), "could not be read.*no more"),
    ],
)
def test_pytorch_files_without_tensors(content, message, torch, tmp_path):
    torch.content = content
    (tmp_path / "model.pth").touch()
    with pytest.raises(WeightsError, match=rf"model\.pth {message}"):
        files.read_tensors(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe\x00", b"tau: 0.07"])
def test_malformed_json(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        files.read_json(tmp_path / "config.json")


def test_json_without_an_object(tmp_path):
    (tmp_path / "config.json").write_text("3")
    with pytest.raises(WeightsError, match=r"config\.json holds a JSON int; expected an object of fields"):
        files.read_json(tmp_path / "config.json")


def test_nothing_is_half_written(tmp_path, monkeypatch):
    model, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    files.write_safetensors(model, TENSORS)
    files.write_json(config, {"tau": 0.07})
    before = model.read_bytes(), config.read_text()

    def full_disk(tensors, path, **kwargs):
        path.write_bytes(b"the first half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_safetensors(model, TENSORS)
    with pytest.raises(TypeError):
        files.write_json(config, {"tau": {0.07}})
    assert (model.read_bytes(), config.read_text()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
