"""MAETok tokenizers in the published layout: SoftVQ-VAE's, with rotary positions and modulated decoder blocks.

A published file also holds tensors that only training uses (auxiliary decoders, teachers), and some that nothing uses.
Tensors without a rule are kept beside the model and written back.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.config.fields import number
from softvq_jax.config.kinds import ROPE_THETA
from softvq_jax.models.dinov2 import resample_positions
from softvq_jax.models.maetok import MAETokConfig
from softvq_jax.models.rotary import patch_coordinates
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights import tokenizer
from softvq_jax.weights.config_json import stated
from softvq_jax.weights.layout import LEADING_ONE, Rule, WeightsError, linear, reading
from softvq_jax.weights.vit import prefix_rules, rotary_rules, transformer_rules, vit_config_of

AUXILIARY_FEATURES = ("hog", "dino", "clip")
CONFIG_JSON = tokenizer.CONFIG_JSON | {"rope_theta": number(above=0)}  # the fields of config.json that are read
_SIDES = ("encoder", "decoder")


def is_maetok(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state dict is a MAETok's: SoftVQ-VAE's naming, and rotary positions or modulated decoder blocks."""
    marks = ("encoder.freqs", "decoder.freqs", "decoder.model.blocks.0.adaLN_modulation.1.weight")
    return "encoder.latent_tokens" in tensors and any(mark in tensors for mark in marks)


def tokenizer_rules(config: MAETokConfig) -> list[Rule]:
    """Returns the rules of a `MAETokModel`."""
    rules = tokenizer.tokenizer_rules(config)
    return rules + ([Rule("encoder/mask_token", "encoder.mask_token", LEADING_ONE)] if config.mask_token else [])


def auxiliary_rules(config: MAETokConfig, features: str) -> list[Rule]:
    """Returns the rules of the `AuxiliaryDecoder` of "hog", "dino" or "clip" features."""
    vit, key = config.auxiliary, f"decoder_{features}."
    if vit is None:
        raise ValueError("the config has no auxiliary decoders")
    rules = [
        Rule("decoder/latent_pos_embed", f"{key}latent_pos_embed", LEADING_ONE),
        Rule("decoder/mask_token", f"{key}mask_token", LEADING_ONE),
    ]
    rules += prefix_rules(vit, "decoder/", f"{key}model.")
    rules += transformer_rules(vit, "decoder/transformer/", f"{key}model.")
    rules += rotary_rules(vit, "decoder/transformer/", key)
    rules += linear("decoder/embed_latents", f"post_quant_conv_{features}")
    return rules + linear("decoder/to_patches", f"to_pixel_{features}")


def config_of(
    tensors: Mapping[str, np.ndarray], published: Mapping, *, source: str = "the file", **compute
) -> MAETokConfig:
    """Infers the config of a published MAETok from its tensors and, for the rest, from its `config.json`.

    Args:
      tensors: a state dict in the published naming.
      published: the content of its `config.json`; fields that are null or missing have their defaults.
      source: name of the tensors' file, for messages.
      compute: the fields that files do not contain, `dtype` and `remat`.

    Raises:
      WeightsError: the tensors are not those of a MAETok, or a field has a value that is not allowed.
    """
    published = stated(published, CONFIG_JSON, source=f"the config.json of {source}")
    with reading(source, "a MAETok tokenizer"):
        return _config_of(tensors, published, **compute)


def _config_of(tensors, published, **compute):
    theta = float(published.get("rope_theta", ROPE_THETA))
    fields, (encoder_patch, decoder_patch) = tokenizer.shared_fields(tensors, published), tokenizer.patch_sizes(tensors)
    auxiliary = [name for name in AUXILIARY_FEATURES if f"decoder_{name}.mask_token" in tensors]
    return MAETokConfig(
        encoder=_vit_of(tensors, "encoder.", encoder_patch, theta),
        decoder=_vit_of(tensors, "decoder.", decoder_patch, theta),
        mask_token="encoder.mask_token" in tensors,
        auxiliary=_vit_of(tensors, f"decoder_{auxiliary[0]}.", decoder_patch, theta) if auxiliary else None,
        **fields,
        **compute,
    )


def _vit_of(tensors, key, patch_size, theta):
    rotary = f"{key}freqs" in tensors
    return dataclasses.replace(
        vit_config_of(tensors, f"{key}model.", patch_size=patch_size),
        class_token=f"{key}model.cls_token" in tensors,
        # Decoders with rotary positions have absolute ones in their files, but do not add them.
        absolute_positions=key == "encoder." or not rotary,
        rope_theta=theta if rotary else None,
        modulated=f"{key}model.blocks.0.adaLN_modulation.1.weight" in tensors,
    )


def resized(tensors: Mapping[str, np.ndarray], image_size: int) -> dict[str, np.ndarray]:
    """Returns the state dict for images of another size, with new rotary positions and resampled learned positions.

    Learned positions are resampled bicubically, as DINOv2's. The result has the published layout of that size.

    Raises:
      WeightsError: the tensors are not a MAETok's, or the patch size does not divide `image_size`.
    """
    if not is_maetok(tensors):
        raise WeightsError("these weights have no rotary positions: they are for images of one size only")
    patch = tensors["encoder.model.patch_embed.proj.weight"].shape[-1]
    if image_size < patch or image_size % patch:
        raise WeightsError(f"image_size is {image_size}; expected a multiple of the patch size, {patch}")
    new = dict(tensors)
    for key, tensor in tensors.items():
        if re.fullmatch(r"(encoder|decoder\w*)\.model\.pos_embed", key):
            new[key] = resample_positions(tensor[0].astype(np.float32), image_size // patch)[None].astype(tensor.dtype)
        elif re.fullmatch(r"(encoder|decoder\w*)\.freqs_t_[xy]", key):
            coordinates = patch_coordinates(image_size // patch)[:, 0 if key.endswith("x") else 1]
            new[key] = coordinates.astype(tensor.dtype)
    return new


def published_fields(config: MAETokConfig) -> dict:
    """Returns the flat `config.json` of a tokenizer trained here, with the fields of published ones."""
    fields = tokenizer.published_fields(config)
    for name in ("codebook_size", "codebook_l2_norm", "num_codebooks", "tau"):
        del fields[name]
    return fields | {
        "base_image_size": config.image_size,
        "decoder_model": fields["decoder_model"].replace(".lvd142m", "_movqv2"),
        "use_ape": False,
        "use_rope": config.encoder.rope_theta is not None,
        "rope_mixed": True,
        "rope_theta": config.encoder.rope_theta or ROPE_THETA,
        "enc_token_drop": 0.4 if config.mask_token else 0.0,
        "enc_token_drop_max": 0.6,
        "dec_cls_token": config.decoder.class_token,
        "dec_pretrained": False,
    }


def unused_tensors(config: MAETokConfig) -> dict[str, np.ndarray]:
    """Returns the tensors of the published layout that our network does not have, for a tokenizer trained here.

    These are the coordinates of the patches, and zeros for the decoder's patch embedding, positions and last norm.
    """
    tensors = tokenizer.unused_patch_embed(config)
    for side in _SIDES:
        vit: ViTConfig = getattr(config, side)
        if vit.rope_theta is not None:
            columns, rows = patch_coordinates(vit.grid(config.image_size)).T
            tensors |= {f"{side}.freqs_t_x": columns.copy(), f"{side}.freqs_t_y": rows.copy()}
    vit, grid = config.decoder, config.decoder.grid(config.image_size)
    if not vit.absolute_positions:
        tensors["decoder.model.pos_embed"] = np.zeros((1, 1 + grid**2, vit.width), np.float32)
    if vit.modulated:
        key = "decoder.model.norm.adaLN_modulation.1"
        tensors[f"{key}.weight"] = np.zeros((2 * vit.width, config.latent_dim), np.float32)
        tensors[f"{key}.bias"] = np.zeros(2 * vit.width, np.float32)
    return tensors
