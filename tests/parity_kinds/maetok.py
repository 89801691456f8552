"""Kinds `maetok` and `maetok_losses`: whole tokenizers in the published layout, and the losses of masked training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.losses import hog, masked_features
from softvq_jax.losses.reconstruction import pixel_l2
from softvq_jax.models.dinov2 import imagenet_normalize
from softvq_jax.models.functional import functional
from softvq_jax.models.maetok import AuxiliaryDecoder
from softvq_jax.models.vit import ViT
from softvq_jax.weights import layout, tokenizer_kinds
from softvq_jax.weights.maetok import auxiliary_rules, config_of, is_maetok, tokenizer_rules
from softvq_jax.weights.vit import vit_config_of, vit_rules
from tests.parity import recipe


def tokenizer(case, arrays):
    _, images, _, network, params = _opened(case)

    @jax.jit
    def forward(params, images):
        model = network(params)
        latents = model.encode(images)
        return latents, model.decode(latents)

    latents, recon = forward(params, images)
    recon = np.asarray(recon).transpose(0, 3, 1, 2)
    return {
        "z": latents,
        "recon_sub4": recon[:, :, ::4, ::4],
        "recon_mean": recon.mean((2, 3)),
        "recon_std": recon.std((2, 3)),
    }


def losses(case, arrays):
    state, images, config, network, model_params = _opened(case)
    mask = jnp.asarray(arrays["mask"], bool)
    teacher_config = vit_config_of(state, "repa_model.", patch_size=case["arguments"]["repa_patch_size"])
    teacher = functional(ViT, teacher_config, case["size"])
    teacher_params = layout.read(vit_rules(teacher_config, "", "repa_model."), state, teacher.shapes, source="case")
    widths = {"hog": hog.NUM_VALUES, "dino": teacher_config.width}
    decoders = {name: functional(AuxiliaryDecoder, config, width) for name, width in widths.items()}
    auxiliary = {
        name: layout.read(auxiliary_rules(config, name), state, decoder.shapes, source="case")
        for name, decoder in decoders.items()
    }

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients(params):
        model = network(params["model"])
        out = model(images, mask=mask)
        recon = model.decoder.to_pixels(out.decoded)
        latents = out.bottlenecked.latents
        predicted = {name: decoder(params[name])(latents) for name, decoder in decoders.items()}
        targets = hog.hog(images)
        features = teacher(teacher_params)(imagenet_normalize(images))[:, 1:]
        terms = {
            "pixel_loss": pixel_l2(recon, images),
            "hog_loss": masked_features.squared_error(predicted["hog"], targets, mask),
            "dino_loss": masked_features.negative_cosine(predicted["dino"], features, mask),
        }
        return sum(terms.values()), {"z": latents, "recon": recon, "target": targets} | terms

    grads, results = gradients({"model": model_params} | auxiliary)
    written = layout.write(tokenizer_rules(config), grads["model"])
    for name in auxiliary:
        written |= layout.write(auxiliary_rules(config, name), grads[name])
    recon, targets = np.asarray(results.pop("recon")).transpose(0, 3, 1, 2), results.pop("target")
    thinned = {
        "grad_encoder_freqs_sub": "encoder.freqs",
        "grad_decoder_freqs_sub": "decoder.freqs",
        "grad_to_hog_sub": "to_pixel_hog.weight",
        "grad_latent_tokens_sub": "encoder.latent_tokens",
        "grad_decoder_modulation_sub": "decoder.model.blocks.3.adaLN_modulation.1.weight",
        "grad_dino_qkv_sub": "decoder_dino.model.blocks.1.attn.qkv.weight",
    }
    return (
        results
        | {"recon_sub4": recon[:, :, ::4, ::4], "hog_target_sub": targets[:, ::17]}
        | {"grad_mask_token": written["encoder.mask_token"]}
        | {name: written[key].reshape(-1)[::97] for name, key in thinned.items()}
    )


def _opened(case):
    state = recipe.state_dict(case)
    assert is_maetok(state)
    images = jnp.asarray(recipe.images(case["count"], case["size"], case["seed"]).transpose(0, 2, 3, 1))
    config = config_of(state, case["arguments"])
    network = tokenizer_kinds.network(config)
    return state, images, config, network, layout.read(tokenizer_rules(config), state, network.shapes, source="case")


KINDS = {"maetok": tokenizer, "maetok_losses": losses}
INPUTS = {"maetok_losses": ("mask",)}
