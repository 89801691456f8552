"""SigLIP's image encoder (arXiv 2303.15343): the ViT without class token and LayerScale, and with tanh GELU.

Features are its patch tokens after the last norm, as of DINOv2 (`models.dinov2.patch_features`). The attention pooling
that follows in SigLIP is left out.
"""

from softvq_jax.models.vit import ViTConfig

HEADS = {1152: 16, 1536: 16}  # of the sizes so400m and giant, by their widths; other sizes have heads of width 64
SO400M = (1152, 27, 4304)  # width, depth and hidden width of the MLPs


def siglip_config(width: int, depth: int, hidden: int, *, patch_size: int) -> ViTConfig:
    """Returns the shape of a SigLIP image encoder; `hidden` is the hidden width of its MLPs."""
    return ViTConfig(
        width=width,
        depth=depth,
        num_heads=HEADS.get(width, max(1, width // 64)),
        patch_size=patch_size,
        mlp_ratio=hidden / width,
        activation="gelu_tanh",
        layer_scale=None,
        class_token=False,
    )
