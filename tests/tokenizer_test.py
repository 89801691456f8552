"""The user interface of tokenizers; parity cases cover the numbers, `tests/weights/tokenizer_test.py` the files."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import softvq_jax
from softvq_jax.models.quantizers import BOTTLENECKS
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.tokenizer import Tokenizer
from tests import small_tokenizers as small

IMAGES = small.images()


@pytest.mark.parametrize(
    "bottleneck", [name for name in BOTTLENECKS if name not in ("fsq", "token_flow")]
)  # which need arguments
def test_encode_decode_reconstruct(bottleneck):
    tokenizer = small.tokenizer(small.config(bottleneck))
    latents = tokenizer.encode(IMAGES)
    assert latents.shape == (3, small.NUM_TOKENS, small.DIM) and latents.dtype == jnp.float32
    decoded = tokenizer.decode(latents)
    assert decoded.shape == IMAGES.shape and decoded.dtype == jnp.float32
    assert float(jnp.abs(decoded).max()) == 1.0  # random parameters go beyond, and are clipped
    assert len(np.unique(decoded)) > 100
    np.testing.assert_array_equal(tokenizer.reconstruct(IMAGES), decoded)
    # Images do not affect each other.
    np.testing.assert_allclose(tokenizer.encode(IMAGES[::-1]), latents[::-1], atol=1e-5)


@pytest.mark.parametrize("bottleneck", ["vq", "simvq"])
def test_indices_determine_the_latents(bottleneck):
    tokenizer = small.tokenizer(small.config(bottleneck))
    indices, latents = tokenizer.encode_indices(IMAGES), tokenizer.encode(IMAGES)
    assert indices.shape == (3, 2, 4) and indices.dtype == jnp.int32 and len(np.unique(indices)) > 2
    np.testing.assert_array_equal(tokenizer.decode_indices(indices), tokenizer.decode(latents))
    np.testing.assert_array_equal(tokenizer.encode_indices(IMAGES[::-1]), indices[::-1])
    np.testing.assert_array_equal(tokenizer.decode_indices(np.int64(indices)), tokenizer.decode(latents))
    # Codebook c serves tokens 4c ... 4c + 3, in every image of the batch.
    bottleneck_params = jax.tree.map(np.float64, tokenizer.params["bottleneck"])
    codes = bottleneck_params["codebook"]
    if bottleneck == "vq":
        codes = codes / np.linalg.norm(codes, axis=-1, keepdims=True)
    else:
        codes = codes @ bottleneck_params["projection"] + bottleneck_params["projection_bias"]
    for image in range(3):
        expected = [codes[c, indices[image, c, i]] for c in range(2) for i in range(4)]
        np.testing.assert_allclose(latents[image], expected, atol=1e-6)


def test_matmuls_in_bfloat16():
    exact, fast = (small.tokenizer(small.config("ae", dtype=dtype)) for dtype in ("float32", "bfloat16"))
    latents = fast.encode(IMAGES)
    assert latents.dtype == jnp.float32
    error = np.linalg.norm(latents - exact.encode(IMAGES)) / np.linalg.norm(latents)
    assert 1e-4 < error < 3e-2


def test_statistics_of_the_latents():
    config = small.config("ae")
    tokenizer = Tokenizer(config, small.params(config), published={"vq_mean": 0.25, "vq_std": 2.0})
    assert (tokenizer.latent_mean, tokenizer.latent_std) == (0.25, 2.0)
    assert small.tokenizer(config).latent_mean is small.tokenizer(config).latent_std is None


def with_pixel(value):
    images = IMAGES.copy()
    images[1, 2, 3, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:, :, :, :1], r"images have shape \(3, 32, 32, 1\); expected \[B, 32, 32, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), r"images have shape \(3, 3, 32, 32\); expected \[B, 32, 32, 3\]"),
        (IMAGES[0], r"images have shape \(32, 32, 3\); expected \[B, 32, 32, 3\]"),
        (IMAGES[:0], r"images have shape \(0, 32, 32, 3\).*with B at least 1"),
        (small.images(size=40), r"images have shape \(3, 40, 40, 3\); expected \[B, 32, 32, 3\]"),
        (np.int32(127 * IMAGES + 128), r"images are int32; expected floats in \[-1, 1\], or uint8"),
        (127.5 * IMAGES + 127.5, r"values range from .* to 2\d\d.*; expected \[-1, 1\]"),
        (with_pixel(-1.01), r"values range from -1\.01 to .*; expected \[-1, 1\]"),
        (with_pixel(np.nan), r"values range from nan to nan; expected \[-1, 1\]"),
        (with_pixel(np.inf), r"values range from .* to inf; expected \[-1, 1\]"),
        ("cat.png", r"images are 'cat\.png'; expected an array of numbers"),
    ],
)
def test_images_that_are_refused(images, message):
    tokenizer = small.tokenizer(small.config("vq"))
    for method in (tokenizer.encode, tokenizer.reconstruct, tokenizer.encode_indices):
        with pytest.raises(ValueError, match=message):
            method(images)


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 8, 6, 1), (8, 6), (3, 2, 4)])
def test_latents_that_are_refused(shape):
    with pytest.raises(ValueError, match=r"latents have shape .*; expected \[B, 8, 6\]"):
        small.tokenizer(small.config("vq")).decode(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.full((1, 2, 4), 16), "range from 16 to 16; expected 0 to 15"),
        (np.full((1, 2, 4), -1), "range from -1 to -1; expected 0 to 15"),
        (np.zeros((1, 8), int), r"indices have shape \(1, 8\); expected \[B, 2, 4\]"),
        (np.zeros((1, 4, 2), int), r"indices have shape \(1, 4, 2\); expected \[B, 2, 4\]"),
        (np.zeros((1, 2, 4)), "indices are float32; expected integers"),
        (np.full((1, 2, 4), 2**32), "indices range from 4294967296 to 4294967296; expected int32"),  # 0 in 32 bits
        ([[[2**40] * 4] * 2], r"indices are \[\[\[1099511627776, .*\]\]\]; expected an array of numbers"),
        ([[[1, 2], [3]]], r"indices are \[\[\[1, 2\], \[3\]\]\]; expected an array of numbers"),
        ("cat", "indices are 'cat'; expected an array of numbers"),
        (np.array(["cat"] * 40), r"indices are array\(\['cat',.*; expected an array of numbers"),
    ],
)
def test_indices_that_are_refused(indices, message):
    with pytest.raises(ValueError, match=message) as caught:
        small.tokenizer(small.config("vq")).decode_indices(indices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bottleneck", ["softvq", "kl", "ae"])
def test_continuous_latents_have_no_indices(bottleneck):
    tokenizer = small.tokenizer(small.config(bottleneck))
    for call in (lambda: tokenizer.encode_indices(IMAGES), lambda: tokenizer.decode_indices(np.zeros((1, 2, 4), int))):
        with pytest.raises(ValueError, match=f"the {bottleneck} bottleneck has continuous latents.*encode and decode"):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 36}, "image size 36 is not divisible by the patch size 8: .*for instance 32"),
        ({"decoder": small.vit(patch_size=5)}, "image size 32 is not divisible by the patch size 5"),
        ({"num_codebooks": 3}, "num_latent_tokens 8 is not divisible by num_codebooks 3"),
        (
            {"bottleneck": "lfq"},
            "bottleneck is 'lfq'; expected one of softvq, vq, simvq, kl, ae, gumbel, token_flow, fsq",
        ),
        ({"posterior": "sharp"}, "posterior is 'sharp'; expected one of released, paper"),
    ],
)
def test_shapes_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small.config(**changes)


def test_codebooks_matter_only_where_there_are_some():
    assert isinstance(small.config("ae", num_codebooks=3), TokenizerConfig)


def run_python(program, *args):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, args)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_does_not_import_jax():
    run_python("""
        import sys, softvq_jax, softvq_jax.config
        assert "Tokenizer" in softvq_jax.__all__ and "jax" not in sys.modules and "flax" not in sys.modules
    """)
    assert softvq_jax.Tokenizer is Tokenizer
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"):
        softvq_jax.Tokeniser  # noqa: B018


def test_works_with_no_network_torch_tensorflow_or_timm(tmp_path):
    tokenizer = small.tokenizer(small.config("vq"))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    np.save(tmp_path / "images.npy", IMAGES)
    program = """
        import pathlib, socket, sys
        import numpy as np

        def refuse(*args, **kwargs):
            raise AssertionError("the network was used")

        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse

        class Blocker:
            def find_spec(name, path=None, target=None):
                if name.split(".")[0] in ("torch", "torchvision", "timm", "tensorflow", "transformers"):
                    raise ImportError(f"{name} was imported")

        sys.meta_path.insert(0, Blocker)
        from softvq_jax import Tokenizer

        folder = pathlib.Path(sys.argv[1])
        tokenizer, images = Tokenizer.from_pretrained(folder / "tokenizer"), np.load(folder / "images.npy")
        np.save(folder / "reconstructed.npy", tokenizer.decode(tokenizer.encode(images)))
        np.save(folder / "from_indices.npy", tokenizer.decode_indices(tokenizer.encode_indices(images)))
        tokenizer.save_pretrained(folder / "again")
    """
    run_python(program, tmp_path)
    for name in ("reconstructed", "from_indices"):  # another process may compile with other optimizations
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), tokenizer.reconstruct(IMAGES), atol=1e-5)
    for file in ("config.json", "model.safetensors", "softvq_jax.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "tokenizer" / file).read_bytes()
