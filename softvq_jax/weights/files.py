"""Finds, reads and writes weight files.

A name is a local path, `hf://owner/name` (a folder on the Hugging Face Hub) or `hf://owner/name/file`.
"""

import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from absl import logging

from softvq_jax.storage import files
from softvq_jax.weights.layout import WeightsError

HUB = "hf://"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str | os.PathLike, *, purpose: str = "weights") -> pathlib.Path:
    """Returns the local file or folder of a name, downloaded from the Hub if necessary.

    Args:
      name: a local path, `hf://owner/name[/file]`, or `owner/name` if no such path exists.
      purpose: use of the weights, for messages.

    Raises:
      FileNotFoundError: the name is neither a path nor a Hub id, or it cannot be downloaded.
    """
    name = os.fspath(name)
    if not name.startswith(HUB):
        path = pathlib.Path(name).expanduser()
        if path.exists():
            return path
        if not _HUB_ID.fullmatch(name):
            raise FileNotFoundError(
                f"{purpose}: there is no file or folder {name!r}, and it is not a hub id (owner/name)"
            )
    return _fetch(name, purpose)


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
        # The hub's client raises many types for "no network", "no such file" and "not allowed"; all end here.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise FileNotFoundError(
            f"{purpose}: {name!r} is not a local file or folder, and could not be downloaded from the Hugging Face "
            f"Hub. Without a network, download it elsewhere from huggingface.co/{repository} and give its path ({reason})"
        ) from error


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all tensors of a `.safetensors` file, or of a PyTorch `.pth`, `.pt` or `.bin` (needs the `torch` extra).

    Raises:
      FileNotFoundError: the file does not exist.
      WeightsError: the file is truncated, or its content does not match its extension.
      ImportError: the file is a PyTorch file, and torch is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_torch(path)
    raise WeightsError(f"{path}: unknown ending {path.suffix!r}; expected .safetensors, .pth, .pt or .bin")


def _read_safetensors(path):
    import safetensors
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or damaged ({error}): copy or download it again"
        ) from error


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
        raise WeightsError(f"{path} could not be read as a PyTorch file: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state dict, names to tensors")
    for wrapper in ("state_dict", "model", "teacher"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {key: value.detach() for key, value in content.items() if isinstance(value, torch.Tensor)}
    return {key: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for key, value in tensors.items()}


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
