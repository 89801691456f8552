"""MAETok tokenizers small enough for tests: with our own shapes, and in the published layout."""

import json
import pathlib

import numpy as np

from softvq_jax.config.kinds import AUXILIARY_OPTIONS, DECODER_OPTIONS, ROPE_THETA
from softvq_jax.models.maetok import MAETokConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights.maetok import auxiliary_rules
from tests.parity import recipe

SIZE, NUM_TOKENS, DIM = 32, 8, 32
ENCODER = dict(rope_theta=ROPE_THETA)
DECODER, AUXILIARY = (ENCODER | options for options in (DECODER_OPTIONS, AUXILIARY_OPTIONS))
AUXILIARY_PREFIXES = ("decoder_", "post_quant_conv_", "to_pixel_")


def config(**changes) -> MAETokConfig:
    """A tokenizer of 32 px images, 16 patches and 8 tokens of 32 channels."""
    small = dict(width=64, depth=2, num_heads=1, patch_size=8)
    vits = {name: ViTConfig(**fields | small) for name, fields in (("encoder", ENCODER), ("decoder", DECODER))}
    sizes = dict(image_size=SIZE, num_latent_tokens=NUM_TOKENS, latent_dim=DIM)
    return MAETokConfig(**dict(auxiliary=ViTConfig(**AUXILIARY | small)) | vits | sizes | changes)


def published(name: str = "maetok_losses_s") -> tuple[dict[str, np.ndarray], dict]:
    """A parity case's tensors in the release's naming, of smaller transformers, and its `config.json`.

    With the coordinates of the patches, which published files hold and the cases do not list.
    """
    case = json.loads((pathlib.Path(recipe.__file__).parent / f"{name}.json").read_text())
    shapes = {key: _smaller(key, shape) for key, shape in case["shapes"].items() if _is_kept(key)}
    tensors = recipe.state_dict(case | {"shapes": shapes})
    rows, columns = np.mgrid[:4, :4].reshape(2, -1).astype(np.float32)
    for side in {key.split(".")[0] for key in tensors if key.endswith(".freqs")}:
        tensors |= {f"{side}.freqs_t_x": columns, f"{side}.freqs_t_y": rows}
    return tensors, case["arguments"] | {"image_size": SIZE, "vq_mean": 0.01, "vq_std": 0.07}


def auxiliary_keys(config: MAETokConfig, features: str) -> set[str]:
    """The tensors of an auxiliary decoder that its rules name."""
    return {key for rule in auxiliary_rules(config, features) for key in rule.keys}


def _smaller(key, shape):
    if key.startswith("decoder.to_pixel."):
        return [192, *(64 for _ in shape[1:])]
    if key.startswith("to_pixel_dino."):
        return [64 for _ in shape]
    if key.endswith(".freqs"):
        return [2, 2, 32]
    if key.endswith("patch_embed.proj.weight"):
        return [64, 3, 8, 8]
    factor = 3 if key.startswith(AUXILIARY_PREFIXES) else 6
    others = {257: 17, 64: NUM_TOKENS, 128: NUM_TOKENS, 1000: 10, 108: 108}
    return [others.get(n, n // factor if n >= 192 else n) for n in shape]


def _is_kept(key):
    return ".blocks." not in key or key.split(".blocks.")[1].split(".")[0] in ("0", "1")
