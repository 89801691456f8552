"""The weights that a run starts from and looks through, read before any other work."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from softvq_jax.models.dino_trunk import DINO_S, DinoTrunk
from softvq_jax.models.functional import Functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.weights import dinov2, files, frozen, layout
from softvq_jax.weights.vit import vit_config_of, vit_rules

# Field of `config.weights` -> what it is, where it comes from, what to set to do without it.
_NEEDED = {
    "encoder": (
        "the DINOv2 that the encoder starts from",
        "huggingface.co/timm/vit_large_patch14_dinov2.lvd142m (or small, base), model.safetensors",
        "weights.encoder=''  (the encoder then starts from scratch)",
    ),
    "teacher": (
        "the DINOv2 that the latents are aligned with",
        "huggingface.co/timm/vit_large_patch14_dinov2.lvd142m (or small, base), model.safetensors",
        "loss.alignment_weight=0",
    ),
    "lpips_trunk": (
        "LPIPS' VGG16",
        frozen.VGG16_SOURCE,
        "loss.perceptual_weight=0",
    ),
    "lpips_heads": (
        "LPIPS' five linear heads",
        frozen.HEADS_SOURCE,
        "loss.perceptual_weight=0",
    ),
    "dino": (
        "the discriminator's DINO ViT-S/16",
        "huggingface.co/timm/vit_small_patch16_224.dino, model.safetensors",
        "gan.discriminator='none' (or 'patchgan', which has no frozen part)",
    ),
}


class MissingWeights(FileNotFoundError):
    """Weights that the config names are not there; the message says where they come from and how to do without."""


class Pretrained(NamedTuple):
    """What the files hold, as host arrays.

    Attributes:
      frozen: parameters by name of the frozen network: "teacher", "lpips", "trunk".
      encoder: parameters of the encoder's ViT, None to start from scratch.
      teacher: its shape, None without alignment.
      trunk: the discriminator's trunk's shape and image size, None without it.
    """

    frozen: dict[str, Any]
    encoder: Any
    teacher: ViTConfig | None
    trunk: tuple[ViTConfig, int] | None


def load(config) -> Pretrained:
    """Reads every file that the config needs.

    Raises:
      MissingWeights: a file is not there and cannot be fetched.
      WeightsError: a file does not fit.
    """
    size, loaded = config.model.image_size, {}
    teacher = trunk = encoder = None
    if config.weights.encoder:
        encoder = _encoder(config, _tensors(config, "encoder"))
    if config.loss.alignment_weight:
        teacher, loaded["teacher"] = _teacher(_tensors(config, "teacher"), size, config.model.encoder.patch_size)
    if config.loss.perceptual_weight:
        # One file may hold both (as the lpips package's whole model does): later tensors win, and are the same.
        tensors = _tensors(config, "lpips_trunk") | _tensors(config, "lpips_heads")
        source = f"{config.weights.lpips_trunk} with {config.weights.lpips_heads}"
        shapes = Functional(lambda rngs: LPIPS(rngs=rngs)).shapes
        loaded["lpips"] = frozen.read_lpips(tensors, shapes, source=source)
    if config.gan.discriminator == "dino":
        trunk, loaded["trunk"] = _trunk(_tensors(config, "dino"))
    return Pretrained(loaded, encoder, teacher, trunk)


def _tensors(config, field: str) -> dict[str, np.ndarray]:
    what, origin, switch = _NEEDED[field]
    name = config.weights[field]
    if not name:
        raise MissingWeights(f"config.weights.{field} is empty, but the run needs {what}. Set it, or {switch}")
    try:
        path = files.resolve(name, purpose=what)
        if path.is_dir():
            path = path / "model.safetensors"
        return files.read_tensors(path)
    except FileNotFoundError as error:
        raise MissingWeights(
            f"missing: {what}, which config.weights.{field}={name!r} names.\n"
            f"  why: {error}\n"
            f"  where it comes from: {origin}\n"
            f"  where to put it: anywhere, with --config.weights.{field}=/path/to/the/file\n"
            f"  to train without it: --config.{switch}"
        ) from error


def _teacher(tensors: Mapping[str, np.ndarray], image_size: int, patch_size: int) -> tuple[ViTConfig, dict]:
    tensors = dinov2.canonical(tensors, "weights.teacher")
    config = vit_config_of(tensors, patch_size=patch_size)
    config.grid(image_size)
    return config, _read_vit(config, tensors, image_size, "weights.teacher")


def _encoder(config, tensors: Mapping[str, np.ndarray]) -> dict:
    tensors = dinov2.canonical(tensors, "weights.encoder")
    shape = ViTConfig(**config.model.encoder.to_dict())
    shape.grid(config.model.image_size)
    return _read_vit(shape, tensors, config.model.image_size, "weights.encoder")


def _read_vit(config, tensors, image_size, source):
    resampled = dinov2.resampled(tensors, patch_size=config.patch_size, image_size=image_size)
    shapes = Functional(lambda rngs: ViT(config, image_size, rngs=rngs)).shapes
    return layout.read(vit_rules(config), resampled, shapes, source=source)


def _trunk(tensors: Mapping[str, np.ndarray]) -> tuple[tuple[ViTConfig, int], dict]:
    tensors = dinov2.canonical(tensors, "weights.dino")
    patch_size = tensors["patch_embed.proj.weight"].shape[-1]
    config = dataclasses.replace(vit_config_of(tensors, patch_size=patch_size), activation=DINO_S.activation)
    image_size = patch_size * round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    shapes = Functional(lambda rngs: DinoTrunk(config, image_size, rngs=rngs)).shapes
    return (config, image_size), frozen.read_dino(tensors, shapes, source="weights.dino", config=config)
