"""Tokenizers small enough for tests: with our own shapes, and in the published layout."""

import functools
import json
import pathlib

import jax
import numpy as np

from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.tokenizer import Tokenizer, abstract_params
from softvq_jax.weights import files
from tests.parity import recipe

SIZE, NUM_TOKENS, DIM = 32, 8, 6
# Whole tokenizers of the release, whose names and shapes the parity cases list.
PUBLISHED = {"softvq": "softvq_s_64", "vq": "vq_s_64", "kl": "kl_s_64", "ae": "ae_s_64"}
_SMALLER = {384: 64, 1152: 192, 1536: 256, 768: 192, 257: 17, 64: NUM_TOKENS, 8192: 24, 1024: 24, 65536: 100}


def vit(**changes) -> ViTConfig:
    return ViTConfig(**dict(width=32, depth=1, num_heads=4, patch_size=8) | changes)


def config(bottleneck: str = "softvq", **changes) -> TokenizerConfig:
    """A tokenizer of 32 px images, 8 tokens of 6 channels and, where it has them, 2 codebooks of 16 codes."""
    sizes = dict(image_size=SIZE, num_latent_tokens=NUM_TOKENS, latent_dim=DIM, codebook_size=16, num_codebooks=2)
    return TokenizerConfig(**dict(encoder=vit(), decoder=vit(), bottleneck=bottleneck) | sizes | changes)


def params(config: TokenizerConfig, seed: int = 0):
    """Random parameters, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape)), abstract_params(config))


@functools.cache
def tokenizer(config: TokenizerConfig) -> Tokenizer:
    """One with random parameters, made and compiled once for all tests."""
    return Tokenizer(config, params(config))


def images(count: int = 3, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Smooth images, float32 `[count, size, size, 3]`."""
    return recipe.images(count, size, seed).transpose(0, 2, 3, 1)


def published(bottleneck: str, *, encoder_width: int = 64, grid: int = 4) -> tuple[dict[str, np.ndarray], dict]:
    """A tokenizer of the release in small: tensors in its naming, and the fields of its `config.json`.

    Transformers of 2 blocks, 64 wide (or `encoder_width`), with patches of 8 on `grid * grid` places.
    """
    case = json.loads((pathlib.Path(recipe.__file__).parent / f"{PUBLISHED[bottleneck]}.json").read_text())

    def smaller(key, shape):
        sizes = _SMALLER | {257: grid**2 + 1}
        if key.startswith(("encoder.", "quant_conv.")):
            sizes |= {384: encoder_width, 1152: 3 * encoder_width, 1536: 4 * encoder_width}
        shape = [sizes.get(n, n) for n in shape]
        return [*shape[:2], 8, 8] if len(shape) == 4 else shape

    shapes = {key: smaller(key, shape) for key, shape in case["shapes"].items() if _is_kept(key)}
    fields = {"image_size": 8 * grid, "num_latent_tokens": NUM_TOKENS, "codebook_size": 24}
    return recipe.state_dict(case | {"shapes": shapes}), case["arguments"] | fields | {"vq_mean": 0.01, "vq_std": 0.07}


def _is_kept(key):
    return ".blocks." not in key or key.split(".blocks.")[1].split(".")[0] in ("0", "1")


def save_published(folder: pathlib.Path, tensors: dict[str, np.ndarray], fields: dict) -> pathlib.Path:
    """Writes the two files of a published tokenizer."""
    folder.mkdir()
    files.write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(fields, sort_keys=True, indent=2))
    return folder
