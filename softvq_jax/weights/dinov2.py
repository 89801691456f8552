"""Reads DINOv2 weights in the naming of the original repository, timm, and Hugging Face (old and new)."""

import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.models import dinov2
from softvq_jax.weights.layout import WeightsError

_RENAMES = [
    (r"^(?:(?:dinov2|dinov2_with_registers|module|model|backbone|dino)\.)+", ""),
    (r"^reg_token$", "register_tokens"),
    (r"^embeddings\.(cls_token|register_tokens|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attn.{m[1][0]}."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(w12|weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(w3|weights_out)\.", ".mlp.fc2."),
    # The original repository groups the blocks of its largest models into chunks: blocks.CHUNK.INDEX.
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
]


def canonical(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Renames tensors to the original naming, joins q, k and v, and adds a position for the class token if missing.

    Raises:
      WeightsError: the tensors are not those of a DINOv2 or ViT.
    """
    renamed = {}
    for key, tensor in tensors.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = np.asarray(tensor)
    for key in [key for key in renamed if ".attn.q." in key]:
        parts = [renamed.pop(key.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        renamed[key.replace(".attn.q.", ".attn.qkv.")] = np.concatenate(parts)
    blocks = [f"blocks.0.{name}.weight" for name in ("attn.qkv", "mlp.fc1", "mlp.fc2")]
    for needed in ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight", *blocks):
        if needed not in renamed:
            raise WeightsError(f"{source} has no {needed!r} in any known naming: not the weights of a DINOv2 or ViT")
    positions = renamed["pos_embed"]
    if int(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        # In timm's models with registers, the class token includes its position, and only patches have positions.
        renamed["pos_embed"] = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
    return renamed


def resampled(
    tensors: Mapping[str, np.ndarray], *, patch_size: int, image_size: int, positions: str = "antialiased"
) -> dict[str, np.ndarray]:
    """Resamples canonical tensors to another patch and image size.

    Args:
      positions: "antialiased" as in timm and the released tokenizers, or "hf" as in Hugging Face's own model.
    """
    grid = image_size // patch_size
    resample = {"antialiased": dinov2.resample_positions, "hf": dinov2.interpolate_positions_hf}[positions]
    return dict(tensors) | {
        "pos_embed": resample(tensors["pos_embed"][0], grid)[None],
        "patch_embed.proj.weight": dinov2.resample_patch_kernel(tensors["patch_embed.proj.weight"], patch_size),
    }
