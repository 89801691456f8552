"""TiTok tokenizers and masked token generators small enough for tests."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.models import maskgit
from softvq_jax.models.functional import Functional
from softvq_jax.models.maskgit import MaskGITConfig
from softvq_jax.models.maskgit_vqgan import PixelDecoderConfig
from softvq_jax.models.titok import NORM_EPS, SIZES, TiTokConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights import tokenizer_kinds
from tests.parity import recipe

SIZE, NUM_TOKENS, DIM = 32, 6, 4
KINDS = ("two_stage", "vq", "vae")
# Whole models of the release, whose names and shapes the parity cases list.
PUBLISHED = {"two_stage": "titok_s_128", "vq": "titok_ss_64_vq8k", "vae": "titok_ss_32_vae"}


def vit_config(size: str, **fields) -> ViTConfig:
    """The transformer of a published size: "small", "base" or "large"."""
    return ViTConfig(**dict(layer_scale=None, norm_eps=NORM_EPS) | SIZES[size] | fields)


def config(kind: str, **changes) -> TiTokConfig:
    """One of the three kinds of tokenizers, of 32 px images and 6 tokens of 4 channels."""
    vit = vit_config("small", width=64, depth=2, num_heads=1, patch_size=8)
    kinds = {
        "two_stage": dict(pixel_decoder=PixelDecoderConfig(20, 6, 32, (1, 1, 2, 2), 1)),
        "vq": dict(l2_normalize=False),
        "vae": dict(bottleneck="kl"),
    }
    sizes = dict(image_size=SIZE, num_latent_tokens=NUM_TOKENS, latent_dim=DIM)
    if kind != "vae":
        sizes |= dict(codebook_size=16)
    return TiTokConfig(**dict(encoder=vit, decoder=vit) | sizes | kinds[kind] | changes)


def generator_config(network: str, **changes) -> MaskGITConfig:
    """A generator of 6 codes out of 16, of 5 classes."""
    sizes = dict(codebook_size=16, num_tokens=NUM_TOKENS, width=32, depth=4, num_heads=4, hidden=48, num_classes=5)
    return MaskGITConfig(network=network, **sizes | changes)


def functional(config) -> Functional:
    """The network of either kind of config."""
    return tokenizer_kinds.network(config) if isinstance(config, TiTokConfig) else maskgit.functional(config)


def params(network: Functional, seed: int = 0):
    """Random parameters, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), network.shapes)


def published(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """A parity case's tensors in the release's naming, of narrower transformers, and its `config.json`."""
    case = json.loads((pathlib.Path(recipe.__file__).parent / f"{name}.json").read_text())
    smaller = {512: 64, 1536: 192, 2048: 256, 1024: 128, 4096: 24, 8192: 24} if name.startswith("titok") else {}
    shapes = {}
    for key, shape in case["shapes"].items():
        shapes[key] = shape if key.startswith("pixel_decoder.") else [smaller.get(n, n) for n in shape]
    return recipe.state_dict(case | {"shapes": shapes}), case["arguments"]
