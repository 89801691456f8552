"""Weight rules and configs of tokenizers in the published layout, a flat `config.json` and PyTorch tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from softvq_jax.config.fields import BOOLEAN, integer, number
from softvq_jax.models.quantizers import BOTTLENECKS, bottleneck_class
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.weights.config_json import STATISTICS, stated
from softvq_jax.weights.layout import LEADING_ONE, LINEAR, SAME, Rule, WeightsError, linear, reading
from softvq_jax.weights.vit import prefix_rules, rotary_rules, transformer_rules, vit_config_of, vit_rules

# Published files contain a patch embedding of the decoder, which is not used, since the decoder's input is not an image.
UNUSED_PATCH_EMBED = "decoder.model.patch_embed.proj"
ANCHORS = ("encoder.latent_tokens",)
CONFIG_JSON = {
    "image_size": integer(1),
    "tau": number(above=0),
    "codebook_l2_norm": BOOLEAN,
    **STATISTICS,
}  # the fields of config.json that are read
_TIMM_NAMES = {384: "vit_small", 768: "vit_base", 1024: "vit_large"}


def tokenizer_rules(config: TokenizerConfig) -> list[Rule]:
    """Returns the rules of a `TokenizerModel`."""
    rules = vit_rules(config.encoder, "encoder/vit/", "encoder.model.")
    rules += [
        Rule("encoder/latent_tokens", "encoder.latent_tokens", LEADING_ONE),
        Rule("encoder/latent_pos_embed", "encoder.latent_pos_embed", LEADING_ONE),
        Rule("decoder/latent_pos_embed", "decoder.latent_pos_embed", LEADING_ONE),
        Rule("decoder/mask_token", "decoder.mask_token", LEADING_ONE),
    ]
    rules += prefix_rules(config.decoder, "decoder/", "decoder.model.")
    rules += transformer_rules(config.decoder, "decoder/transformer/", "decoder.model.")
    rules += rotary_rules(config.encoder, "encoder/vit/transformer/", "encoder.")
    rules += rotary_rules(config.decoder, "decoder/transformer/", "decoder.")
    rules += linear("to_latents", "quant_conv")
    rules += linear("decoder/embed_latents", "post_quant_conv")
    rules += linear("decoder/to_patches", "decoder.to_pixel.model")
    return rules + bottleneck_rules(config, "bottleneck/", "quantize.")


def bottleneck_rules(config: TokenizerConfig, path: str = "", key: str = "") -> list[Rule]:
    """Returns the rules of the bottleneck."""
    rules = []
    for name, tensor in bottleneck_class(config.bottleneck).tensors(config).items():
        layout, count = LINEAR if tensor.transposed else SAME, 1 if tensor.squeezed else None
        rules.append(Rule(f"{path}{name}", f"{key}{tensor.name}", layout, count))
    return rules


def alignment_rules() -> list[Rule]:
    """Returns the rules of an `AlignmentHead`, which the released training code saves with the tokenizer."""
    return [rule for i, n in enumerate((0, 2, 4), 1) for rule in linear(f"fc{i}", f"projection.{n}")]


def config_of(
    tensors: Mapping[str, np.ndarray], published: Mapping, *, source: str = "the file", **compute
) -> TokenizerConfig:
    """Infers the config of a published tokenizer from its tensors and, for the rest, from its `config.json`.

    Args:
      tensors: a state dict in the published naming.
      published: the content of its `config.json`; fields that are null or missing have their defaults.
      source: name of the tensors' file, for messages.
      compute: the fields that files do not contain, `dtype` and `remat`.

    Raises:
      WeightsError: the tensors are not those of a tokenizer, or a field has a value that is not allowed.
    """
    published = stated(published, CONFIG_JSON, source=f"the config.json of {source}")
    with reading(source, "a SoftVQ-VAE tokenizer"):
        return _config_of(tensors, published, **compute)


def _config_of(tensors, published, **compute):
    fields, (encoder_patch, decoder_patch) = shared_fields(tensors, published), patch_sizes(tensors)
    encoder = vit_config_of(tensors, "encoder.model.", patch_size=encoder_patch)
    decoder = vit_config_of(tensors, "decoder.model.", patch_size=decoder_patch)
    return TokenizerConfig(encoder, decoder, **fields, **compute)


def shared_fields(tensors: Mapping[str, np.ndarray], published: Mapping) -> dict[str, Any]:
    """Returns the fields other than the transformers and `compute`, for SoftVQ-VAE and MAETok."""
    num_latent_tokens = tensors["encoder.latent_tokens"].shape[1]
    image_size = _grid(tensors["encoder.model.pos_embed"]) * patch_sizes(tensors)[0]
    if published.get("image_size", image_size) != image_size:
        logging.info("config.json says image_size %s; the positions are for %d", published["image_size"], image_size)
    return {
        "image_size": image_size,
        "num_latent_tokens": num_latent_tokens,
        "latent_dim": tensors["post_quant_conv.weight"].shape[1],
        **_bottleneck_fields(tensors, published),
    }


def patch_sizes(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Returns the patch sizes of encoder and decoder in pixels."""
    encoder = tensors["encoder.model.patch_embed.proj.weight"].shape[-1]
    return encoder, round((tensors["decoder.to_pixel.model.weight"].shape[0] / 3) ** 0.5)


def _grid(positions):
    """Returns the number of patches on each side of the image, given the positions of the class token and the patches."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if side**2 != positions.shape[1] - 1:
        raise WeightsError(f"there are {positions.shape[1]} positions; expected 1 and a square number")
    return side


def _bottleneck_fields(tensors, published):
    """Returns the fields of the first bottleneck that recognizes its tensors, starting with the class registered last."""
    for name, bottleneck in reversed(BOTTLENECKS.items()):
        if (fields := bottleneck.published_config(tensors, published)) is not None:
            return {"bottleneck": name, "l2_normalize": bool(published.get("codebook_l2_norm", True))} | fields
    raise WeightsError("no registered bottleneck recognizes the tensors under 'quantize.'")


def published_fields(config: TokenizerConfig) -> dict:
    """Returns the flat `config.json` of a tokenizer trained here, with the fields of published tokenizers."""
    name = lambda vit: f"{_TIMM_NAMES.get(vit.width, f'vit_{vit.width}')}_patch14_dinov2.lvd142m"  # noqa: E731
    return {
        "image_size": config.image_size,
        "codebook_size": config.codebook_size,
        "codebook_embed_dim": config.latent_dim,
        "codebook_l2_norm": config.l2_normalize,
        "enc_type": "vit",
        "dec_type": "vit",
        "encoder_model": name(config.encoder),
        "decoder_model": name(config.decoder),
        "num_latent_tokens": config.num_latent_tokens,
        "num_codebooks": config.num_codebooks,
        "tau": config.temperature,
        "enc_patch_size": config.encoder.patch_size,
        "dec_patch_size": config.decoder.patch_size,
        "repa": False,
        "enc_pretrained": False,
    }


def unused_patch_embed(config: TokenizerConfig) -> dict[str, np.ndarray]:
    """Returns the unused tensors of the published layout, as zeros, for a tokenizer trained here."""
    width, patch = config.decoder.width, config.decoder.patch_size
    return {
        f"{UNUSED_PATCH_EMBED}.weight": np.zeros((width, 3, patch, patch), np.float32),
        f"{UNUSED_PATCH_EMBED}.bias": np.zeros((width,), np.float32),
    }
