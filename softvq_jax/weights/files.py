"""Finds, reads and writes weight files.

A name is a local path, a path in a bucket, `hf://owner/name` (a folder on the Hugging Face Hub), `hf://owner/name/file`, or
the name of a model in the package.
`entries.py` selects one network from a file that holds several. Files in a bucket are read from a local copy.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from absl import logging

from softvq_jax.storage import files, mirror
from softvq_jax.storage.paths import as_path, expand, is_remote
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.shipped import SHIPPED, shipped_folder

HUB = "hf://"
INDEX = ".index.json"  # ending of a file that lists the shards of a large model
_FLOAT8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
_DEEPEST = 8  # nested dicts in a PyTorch file
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str | os.PathLike, *, purpose: str = "weights") -> pathlib.Path:
    """Returns the file or folder that a name refers to; downloads it from the Hub if necessary.

    Args:
      name: a local path, a path in a bucket, `hf://owner/name[/file]`; or, if no such path exists, the name of a model in
        the package (`weights.shipped`) or `owner/name` on the Hub.
      purpose: use of the weights, for messages.

    Raises:
      FileNotFoundError: the name is neither a path nor a Hub id, or it cannot be downloaded.
    """
    name = os.fspath(name)
    if not name.startswith(HUB):
        path = as_path(expand(name))
        if path.exists():
            return path
        if (shipped := shipped_folder(name)) is not None:
            return shipped
        if is_remote(path) or not _HUB_ID.fullmatch(name):
            raise FileNotFoundError(
                f"{purpose}: there is no file or folder {name!r}"
                + ("" if is_remote(path) else f", and it is not a hub id (owner/name) or one of: {', '.join(SHIPPED)}")
            )
    return _fetch(name, purpose)


def exists(name: str | os.PathLike) -> bool:
    """Whether a name is the path of an existing file or folder, local or in a bucket; False for `hf://` names."""
    return not os.fspath(name).startswith(HUB) and as_path(expand(os.fspath(name))).exists()


def _fetch(name: str, purpose: str) -> pathlib.Path:
    import huggingface_hub

    parts = name.removeprefix(HUB).split("/")
    if len(parts) < 2:
        raise FileNotFoundError(f"{purpose}: {name} should be {HUB}owner/name or {HUB}owner/name/file")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    logging.info("fetching %s from the Hugging Face Hub: %s", purpose, name)
    try:
        if file:
            return pathlib.Path(huggingface_hub.hf_hub_download(repository, file))
        patterns = ["*.json", "*.safetensors"]
        return pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:
        # The client raises many types for "no network", "no such file" and "not allowed".
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FileNotFoundError(
            f"{purpose}: {name!r} is not a local file or folder, and could not be downloaded from the Hugging Face "
            f"Hub. Without a network, download it elsewhere from huggingface.co/{repository} and give its path ({reason})"
        ) from error


# Names of weight files; the first one that a folder has is used.
WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
_PYTORCH = (".pth", ".pt", ".bin")


def find_weights(folder: pathlib.Path, *, purpose: str = "weights") -> pathlib.Path:
    """Returns the weight file of a folder: the first of `WEIGHTS`, or the only `.safetensors`, `.pth`, `.pt` or `.bin`.

    Args:
      folder: the folder; a file is returned as it is.
      purpose: use of the weights, for messages.

    Raises:
      FileNotFoundError: the folder has no weight file, or several.
    """
    if folder.is_file():
        return folder
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *_PYTORCH) and path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:4])
        raise FileNotFoundError(f"{purpose}: {folder} has several files of weights ({names}): name one of them")
    raise FileNotFoundError(f"{folder} has no {WEIGHTS[0]}: not a {purpose} folder")


def find_published(path: pathlib.Path, *, purpose: str) -> tuple[dict, pathlib.Path]:
    """Returns the content of `config.json` and the path of the weight file.

    Args:
      path: a folder with both, or a weight file; without a `config.json` beside that file, the content is empty.
      purpose: use of the weights, for messages.

    Raises:
      FileNotFoundError: one of the two is missing in the folder.
      WeightsError: `config.json` is not a JSON object.
    """
    config = (path.parent if path.is_file() else path) / "config.json"
    if path.is_dir() and not config.is_file():
        raise FileNotFoundError(f"{path} has no config.json: not a {purpose} folder")
    found = find_weights(path, purpose=purpose)
    return read_json(config) if config.is_file() else {}, found


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all tensors of a weight file, by name.

    Args:
      path: a `.safetensors` file, a PyTorch file (`.pth`, `.pt`, `.bin`; needs the `torch` extra), or a
        `.safetensors.index.json` or `.bin.index.json`, which lists the shards to read. In PyTorch files, the names in
        nested dicts are joined by dots.

    Raises:
      FileNotFoundError: the file, or one that an index lists, does not exist.
      WeightsError: the file is truncated, does not have the format of its extension, or holds sparse or quantized
        tensors.
      ImportError: it is a PyTorch file, and torch is not installed.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(mirror.local_file(path))
    if path.suffix in _PYTORCH:
        return _read_torch(mirror.local_file(path))
    raise WeightsError(f"{path}: unknown ending {path.suffix!r}; expected .safetensors, .pth, .pt or .bin")


def _read_shards(path):
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise WeightsError(f"{path} has no weight_map of tensor names to files")
    tensors = {}
    for shard in sorted(set(shards.values())):
        if pathlib.PurePath(shard).name != shard:
            raise WeightsError(f"{path} lists the file {shard!r}; expected the name of a file in its own folder")
        if not (path.parent / shard).is_file():
            raise FileNotFoundError(f"{path} lists {shard!r}, which is not in its folder: copy or download it")
        tensors |= read_tensors(path.parent / shard)
    for key, shard in shards.items():
        if key not in tensors:
            raise WeightsError(f"{path} lists a tensor {key!r} in {shard!r}, which does not hold it")
    return tensors


def _read_safetensors(path):
    import safetensors
    from safetensors import numpy as numpy_files

    try:
        with safetensors.safe_open(path, framework="np") as file:
            dtypes = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (it has no iterator)
        if not _unsupported_by_numpy(dtypes):
            return numpy_files.load_file(path)
        with safetensors.safe_open(path, framework="np") as file:
            float8 = _read_float8(path, dtypes)
            return {key: float8[key] if key in float8 else file.get_tensor(key) for key in dtypes}
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or damaged ({error}): copy or download it again"
        ) from error


def _unsupported_by_numpy(dtypes):
    """The keys of the tensors that safetensors cannot convert to NumPy: float8 and smaller."""
    return {key for key, dtype in dtypes.items() if dtype.startswith(("F8_", "F6_", "F4"))}


def _read_float8(path, dtypes):
    """The float8 tensors of a file that safetensors has already validated."""
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    tensors = {}
    for key in _unsupported_by_numpy(dtypes):
        if dtypes[key] not in _FLOAT8:
            raise WeightsError(f"{path}: {key!r} is {dtypes[key]}; expected float32, float16, bfloat16 or float8")
        first, last = header[key]["data_offsets"]
        data = np.array(content[start + first : start + last])
        tensors[key] = data.view(_FLOAT8[dtypes[key]]).reshape(header[key]["shape"])
    return tensors


def _read_torch(path):
    try:
        import torch  # pyright: ignore[reportMissingImports] (extra)
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file: pip install 'softvq-jax[torch]' to read it, or convert it to .safetensors"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path} could not be read as a PyTorch file: {reason}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state dict, names to tensors")
    tensors = _flat(content, torch.Tensor)
    if not tensors:
        raise WeightsError(f"{path} holds no tensors ({', '.join(map(str, list(content)[:4]))}); expected a state dict")
    return {key: _to_numpy(torch, value, key, path) for key, value in tensors.items()}


def _flat(content, kind, prefix=""):
    """The values of type `kind` in nested dicts, by their keys joined by dots."""
    flat = {}
    for key, value in content.items():
        if isinstance(value, kind):
            flat[f"{prefix}{key}"] = value
        elif isinstance(value, dict) and prefix.count(".") < _DEEPEST:
            flat |= _flat(value, kind, f"{prefix}{key}.")
    return flat


def _to_numpy(torch, tensor, key, path):
    tensor = tensor.detach()
    unusual = "quantized" if tensor.is_quantized else "sparse" if tensor.layout != torch.strided else None
    if unusual:
        raise WeightsError(
            f"{path}: {key!r} is {unusual}; expected a dense tensor of floats: save it dequantized and dense"
        )
    try:
        return tensor.numpy()
    except TypeError:  # NumPy has no bfloat16 and float8; float32 represents them exactly
        return tensor.float().numpy()
    except RuntimeError as error:
        raise WeightsError(f"{path}: {key!r} could not be read: {error}") from error


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `tensors` to a file atomically."""
    from safetensors.numpy import save_file

    # Not `np.ascontiguousarray`, which converts a scalar to a vector.
    contiguous = {key: np.asarray(value, order="C") for key, value in tensors.items()}
    with files.replacing(path) as partial:
        save_file(contiguous, partial, metadata={"format": "pt"})


def read_json(path: str | os.PathLike) -> dict:
    """Returns the object in a JSON file; raises WeightsError if the file does not contain one."""
    try:
        return files.read_json(path)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def write_json(path: str | os.PathLike, content: Mapping) -> None:
    """Writes a JSON object atomically."""
    files.write_json(path, content)
