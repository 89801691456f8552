"""Weight rules of TiTok tokenizers in the published layout: nested `config.json`, and `model.safetensors`.

One-D-Piece (arXiv 2501.10064) publishes its tokenizers with the same tensors, without a `config.json`. SFTok's tokenizers
are not supported; they have another decoder (with several steps, like a masked generator) and another quantizer.
"""

from collections.abc import Mapping

import numpy as np
from absl import logging

from softvq_jax.config.fields import BOOLEAN, integer
from softvq_jax.models import titok
from softvq_jax.models.maskgit_vqgan import PixelDecoderConfig
from softvq_jax.models.titok import TiTokConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights.config_json import STATISTICS, section, stated
from softvq_jax.weights.layout import (
    CONV1X1,
    CONV2D,
    LINEAR,
    PATCH,
    SAME,
    Layout,
    Rule,
    WeightsError,
    count_blocks,
    linear,
    norm,
    reading,
)
from softvq_jax.weights.tokenizer import bottleneck_rules

ANCHORS = ("encoder.latent_token_positional_embedding",)
VQ_MODEL = {"is_legacy": BOOLEAN, "use_l2_norm": BOOLEAN}  # the fields of `model.vq_model` that are read
HEAD_WIDTH = 64  # width of an attention head in all published sizes
TWO_LEADING_ONES = Layout(lambda w: w[0], lambda w: w[None])  # [1, 1, width] <-> [1, width]


def is_titok(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state dict has TiTok's naming."""
    return "latent_tokens" in tensors and "encoder.latent_token_positional_embedding" in tensors


def tokenizer_rules(config: TiTokConfig) -> list[Rule]:
    """Returns the rules of a `TiTokModel`."""
    rules = [Rule("encoder/latent_tokens", "latent_tokens")]
    rules += _side_rules(config.encoder, "encoder", "encoder/vit")
    rules += [
        Rule("encoder/vit/patch_embed/kernel", "encoder.patch_embed.weight", PATCH),
        Rule("encoder/vit/patch_embed/bias", "encoder.patch_embed.bias"),
    ]
    rules += _side_rules(config.decoder, "decoder", "decoder")
    rules += [Rule("decoder/mask_token", "decoder.mask_token", TWO_LEADING_ONES)]
    rules += linear("decoder/embed_latents", "decoder.decoder_embed")
    rules += _conv("to_latents", "encoder.conv_out", CONV1X1)
    rules += bottleneck_rules(config, "bottleneck/", "quantize.")
    if config.pixel_decoder is None:
        rules += _conv("decoder/to_patches", "decoder.ffn.0", CONV1X1)
        return rules + _conv("decoder/conv_out", "decoder.conv_out", CONV2D)
    rules += _conv("decoder/to_hidden", "decoder.ffn.0", CONV1X1) + _conv("decoder/to_codes", "decoder.ffn.2", CONV1X1)
    return rules + pixel_decoder_rules(config.pixel_decoder, "decoder/pixel_decoder/")


def _side_rules(config: ViTConfig, key: str, path: str) -> list[Rule]:
    """Returns the rules common to encoder and decoder; `path` is that of our class token, positions and blocks."""
    blocks, theirs, depth = f"{path}/transformer/blocks", f"{key}.transformer.{{i}}", config.depth
    rules = [
        Rule(f"{path}/cls_token", f"{key}.class_embedding"),
        Rule(f"{path}/pos_embed", f"{key}.positional_embedding"),
        Rule(f"{key}/latent_pos_embed", f"{key}.latent_token_positional_embedding"),
        Rule(f"{blocks}/attn/qkv/kernel", f"{theirs}.attn.in_proj_weight", LINEAR, depth),
        Rule(f"{blocks}/attn/qkv/bias", f"{theirs}.attn.in_proj_bias", SAME, depth),
    ]
    rules += norm(f"{key}/norm_pre", f"{key}.ln_pre") + norm(f"{path}/transformer/norm", f"{key}.ln_post")
    for number in (1, 2):
        rules += norm(f"{blocks}/norm{number}", f"{theirs}.ln_{number}", depth)
    for ours, name in (("attn/proj", "attn.out_proj"), ("mlp/fc1", "mlp.c_fc"), ("mlp/fc2", "mlp.c_proj")):
        rules += linear(f"{blocks}/{ours}", f"{theirs}.{name}", depth)
    return rules


def pixel_decoder_rules(config: PixelDecoderConfig, path: str = "") -> list[Rule]:
    """Returns the rules of a `PixelDecoder`; the codebook is a tensor outside of the decoder in the file."""
    theirs = "pixel_decoder"
    rules = [Rule(f"{path}codebook", "pixel_quantize.embedding.weight")]
    rules += _conv(f"{path}conv_in", f"{theirs}.conv_in", CONV2D) + _conv(
        f"{path}conv_out", f"{theirs}.conv_out", CONV2D
    )
    rules += norm(f"{path}norm_out", f"{theirs}.norm_out")
    channels = config.width * config.multipliers[-1]
    for block in (0, 1):
        rules += _residual_rules(f"{path}mid_block{block}", f"{theirs}.mid.{block}", changed=False)
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        outputs = config.width * multiplier
        for block in range(config.num_blocks):
            ours, key = f"{path}{config.level_name(level, block)}", f"{theirs}.up.{level}.block.{block}"
            rules += _residual_rules(ours, key, changed=channels != outputs)
            channels = outputs
        if level:
            rules += _conv(f"{path}{config.upsample_name(level)}", f"{theirs}.up.{level}.upsample_conv", CONV2D)
    return rules


def _residual_rules(path, key, *, changed):
    rules = norm(f"{path}/norm1", f"{key}.norm1") + norm(f"{path}/norm2", f"{key}.norm2")
    names = [("conv1", "conv1"), ("conv2", "conv2")] + ([("shortcut", "nin_shortcut")] if changed else [])
    return rules + [Rule(f"{path}/{ours}/kernel", f"{key}.{name}.weight", CONV2D) for ours, name in names]


def _conv(path, key, layout):
    return [Rule(f"{path}/kernel", f"{key}.weight", layout), Rule(f"{path}/bias", f"{key}.bias")]


def config_of(
    tensors: Mapping[str, np.ndarray], published: Mapping, *, source: str = "the file", **compute
) -> TiTokConfig:
    """Infers the shape of a published TiTok from its tensors and, for the rest, from its `config.json`.

    Args:
      tensors: the state dict.
      published: the content of `config.json`, nested as in the release: `model.vq_model`.
      source: name of the tensors' file, for messages.
      compute: the fields that files do not contain, `dtype` and `remat`.

    Raises:
      WeightsError: the tensors are not those of a TiTok, or `config.json` contradicts them or has a value that is not
        allowed.
    """
    where = f"the config.json of {source}"
    stated(published, STATISTICS, source=where)
    fields = stated(section(published, "model.vq_model", source=where), VQ_MODEL, source=where)
    crop = section(published, "dataset.preprocessing", source=where)
    crop_size = stated(crop, {"crop_size": integer(1)}, source=where).get("crop_size")
    with reading(source, "a TiTok tokenizer"):
        return _config_of(tensors, fields, crop_size, **compute)


def _config_of(tensors, fields, crop_size, **compute):
    two_stage = "decoder.ffn.2.weight" in tensors
    if bool(fields.get("is_legacy", two_stage)) != two_stage:
        head = "logits over proxy codes (decoder.ffn.2)" if two_stage else "pixels (no decoder.ffn.2)"
        raise WeightsError(f"config.json says is_legacy {fields['is_legacy']}, but the decoder's head gives {head}")
    encoder_patch = tensors["encoder.patch_embed.weight"].shape[-1]
    pixel_decoder = _pixel_decoder_of(tensors) if two_stage else None
    pixels = tensors["decoder.ffn.0.weight"].shape[0] // 3
    decoder_patch = pixel_decoder.patch_size if pixel_decoder else round(pixels**0.5)
    image_size = round((tensors["encoder.positional_embedding"].shape[0] - 1) ** 0.5) * encoder_patch
    if crop_size not in (None, image_size):
        logging.info("config.json says crop_size %s; the positions are for images of %d", crop_size, image_size)
    return TiTokConfig(
        encoder=_vit_of(tensors, "encoder", encoder_patch),
        decoder=_vit_of(tensors, "decoder", decoder_patch),
        image_size=image_size,
        num_latent_tokens=tensors["latent_tokens"].shape[0],
        latent_dim=tensors["decoder.decoder_embed.weight"].shape[1],
        pixel_decoder=pixel_decoder,
        **_bottleneck_fields(tensors, fields, two_stage),
        **compute,
    )


def _vit_of(tensors, key, patch_size):
    blocks = f"{key}.transformer."
    hidden, width = tensors[f"{blocks}0.mlp.c_fc.weight"].shape
    return ViTConfig(
        width=width,
        depth=count_blocks(tensors, blocks),
        num_heads=width // HEAD_WIDTH,
        patch_size=patch_size,
        mlp_ratio=hidden / width,
        layer_scale=None,
        norm_eps=titok.NORM_EPS,
    )


def _bottleneck_fields(tensors, fields, two_stage):
    if "quantize.embedding.weight" in tensors:
        codebook_size = tensors["quantize.embedding.weight"].shape[0]
        # Two-stage tokenizers are published with unit vectors (also One-D-Piece's, without a config.json), others without.
        normalize = bool(fields.get("use_l2_norm", two_stage))
        return dict(bottleneck="vq", codebook_size=codebook_size, l2_normalize=normalize)
    if tensors["encoder.conv_out.weight"].shape[0] != 2 * tensors["decoder.decoder_embed.weight"].shape[1]:
        raise KeyError("quantize.embedding.weight")
    return dict(bottleneck="kl")


def _pixel_decoder_of(tensors):
    if "pixel_decoder.conv_in.weight" not in tensors:
        raise WeightsError(
            "the weights have no pixel_decoder: a TiTok after its first training stage, which gives proxy codes and no "
            "pixels; use the weights of the second stage"
        )
    num_codes, code_dim = tensors["pixel_quantize.embedding.weight"].shape
    width = tensors["pixel_decoder.norm_out.weight"].shape[0]
    kernels = [key for key in tensors if key.startswith("pixel_decoder.up.") and key.endswith(".conv2.weight")]
    levels, blocks = (1 + max(int(key.split(".")[place]) for key in kernels) for place in (2, 4))
    outputs = [tensors[f"pixel_decoder.up.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)]
    return PixelDecoderConfig(num_codes, code_dim, width, tuple(n // width for n in outputs), blocks)


def published_fields(config: TiTokConfig) -> dict:
    """Returns the nested `config.json` of a tokenizer trained here, with the fields of published tokenizers."""
    size = lambda vit: next((name for name, s in titok.SIZES.items() if s["width"] == vit.width), None)  # noqa: E731
    fields = {
        "quantize_mode": "vq" if config.discrete else "vae",
        "token_size": config.latent_dim,
        "vit_enc_model_size": size(config.encoder),
        "vit_dec_model_size": size(config.decoder),
        "vit_enc_patch_size": config.encoder.patch_size,
        "vit_dec_patch_size": config.decoder.patch_size,
        "num_latent_tokens": config.num_latent_tokens,
        "finetune_decoder": config.two_stage,
        "is_legacy": config.two_stage,
    }
    if config.discrete:
        fields |= {"codebook_size": config.codebook_size, "use_l2_norm": config.l2_normalize, "commitment_cost": 0.25}
    return {"model": {"vq_model": fields}, "dataset": {"preprocessing": {"crop_size": config.image_size}}}
