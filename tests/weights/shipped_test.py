"""The models in the package: opened by name and without a network, of limited size, and good on photographs."""

import pathlib
import socket
import tomllib

import jax
import numpy as np
import pytest
import skimage
import sklearn
from PIL import Image
from safetensors.numpy import load_file

import softvq_jax
from softvq_jax import Generator, Tokenizer
from softvq_jax.config import load_config
from softvq_jax.data.crops import center_crop
from softvq_jax.metrics.image_quality import psnr
from softvq_jax.pixels import to_uint8
from softvq_jax.tools import reconstruct
from softvq_jax.weights import files, shipped
from softvq_jax.weights.shipped import SHIPPED, shipped_folder

MAX_BYTES = 12_000_000
# None of these photographs, of two other packages, was used in training.
UNSEEN = (
    *(pathlib.Path(skimage.__file__).parent / "data" / f"{name}.png" for name in ("astronaut", "chelsea", "coffee")),
    *(pathlib.Path(sklearn.__file__).parent / "datasets/images" / f"{name}.jpg" for name in ("china", "flower")),
)
MIN_PSNR = 23.5  # dB, mean over `UNSEEN`; it is 24.4


@pytest.fixture
def offline(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("a test without a network opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(files, "_fetch", refuse)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_are_small_and_in_half_precision(name):
    folder = shipped_folder(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < MAX_BYTES
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {np.dtype("float16")}
    assert name in (folder / "README.md").read_text()


def test_softvq_mini_reconstructs_photographs_that_it_never_saw(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # no folder of that name is here
    tokenizer = Tokenizer.from_pretrained("softvq-mini")
    config = tokenizer.config
    patches = config.encoder.grid(config.image_size) ** 2
    assert config.image_size == 128 and 2 * config.num_latent_tokens <= patches
    assert {leaf.dtype for leaf in jax.tree.leaves(tokenizer.params)} == {np.dtype("float32")}
    images = np.stack([center_crop(Image.open(path), config.image_size) for path in UNSEEN])
    found = psnr(images, to_uint8(np.asarray(tokenizer.reconstruct(images))))
    assert found.mean() > MIN_PSNR, found

    # The command, with its defaults.
    reconstruct.main(reconstruct.parse_flags(["reconstruct", str(UNSEEN[0])]))
    assert f"PSNR {found[0]:.2f} dB" in capsys.readouterr().out
    assert reconstruct.parse_flags(["reconstruct", str(UNSEEN[0])]).out == pathlib.Path("reconstructed_2")

    # Written back, the files are the same.
    tokenizer.save_pretrained("copy")
    for name in ("config.json", "model.safetensors"):
        assert pathlib.Path("copy", name).read_bytes() == (shipped_folder("softvq-mini") / name).read_bytes()


def test_the_committed_config_makes_this_network():
    trained, opened = load_config("mini").model, Tokenizer.from_pretrained("softvq-mini").config
    for name in ("image_size", "num_latent_tokens", "latent_dim", "bottleneck", "codebook_size", "temperature"):
        assert getattr(opened, name) == trained[name]
    for name in ("width", "depth", "num_heads", "patch_size"):
        assert getattr(opened.encoder, name) == trained.encoder[name]
        assert getattr(opened.decoder, name) == trained.decoder[name]


def test_a_folder_of_the_same_name_comes_first(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "softvq-mini").mkdir()
    with pytest.raises(FileNotFoundError, match=r"softvq-mini"):
        Tokenizer.from_pretrained("softvq-mini")
    assert files.resolve("softvq-mini") == pathlib.Path("softvq-mini")


def test_other_names_are_refused_and_the_known_ones_are_listed(offline):
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'softvq-mimi'.* or one of: softvq-mini$"):
        Tokenizer.from_pretrained("softvq-mimi")
    with pytest.raises(ValueError, match="softvq-mini"):
        Generator.from_pretrained("softvq-mini")


def test_packages_contain_the_files():
    """The patterns of package data cover all files; `.ci/wheel` uses the files of a real wheel."""
    root = pathlib.Path(softvq_jax.__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("the package is not imported from a clone")
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    covered = {path for pattern in patterns["softvq_jax.weights"] for path in shipped.FOLDER.parent.glob(pattern)}
    assert {path.name for path in shipped.FOLDER.iterdir()} == set(SHIPPED)
    for name in SHIPPED:
        files_of_it = set(shipped_folder(name).iterdir())
        assert {path.name for path in files_of_it} >= {"README.md", "config.json", "model.safetensors"}
        assert files_of_it <= covered
