"""Kind `titok`: whole tokenizers in the published layout."""

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.weights import layout, tokenizer_kinds
from softvq_jax.weights.titok import config_of, tokenizer_rules
from tests.parity import recipe


def run(case, arrays):
    state = recipe.state_dict(case)
    images = jnp.asarray(recipe.images(case["count"], case["size"], case["seed"]).transpose(0, 2, 3, 1))
    config = config_of(state, case["arguments"])
    functional = tokenizer_kinds.network(config)
    params = layout.read(tokenizer_rules(config), state, functional.shapes, source="case")

    @jax.jit
    def forward(params, images):
        model = functional(params)
        h = model.pre_bottleneck(images)
        bottlenecked = model.bottleneck(h)
        decoded = model.decoder(bottlenecked.latents)
        recon = model.decode_indices(bottlenecked.indices) if config.discrete else model.decoder.to_pixels(decoded)
        return h, bottlenecked, model.decoder.code_logits(decoded) if config.two_stage else recon, recon

    h, bottlenecked, decoded, recon = forward(params, images)
    recon = (np.asarray(recon).transpose(0, 3, 1, 2) + 1) / 2
    results = {
        "h": h,
        "z_q": bottlenecked.latents,
        "recon_sub4": recon[:, :, ::4, ::4],
        "recon_mean": recon.mean((2, 3)),
        "recon_std": recon.std((2, 3)),
    }
    grid = case["size"] // config.decoder.patch_size
    if config.two_stage:
        logits = np.asarray(decoded).reshape(case["count"], grid, grid, -1).transpose(0, 3, 1, 2)
        results["decoder_out_sub"] = logits[:, ::16]
    else:
        results["decoder_out_sub"] = results["recon_sub4"]
    if config.discrete:
        losses = bottlenecked.losses
        results |= {
            "indices": bottlenecked.indices[:, 0],
            "codebook_loss": losses["codebook"],
            "commitment_loss": 0.25 * losses["commitment"],
        }
    return results


KINDS = {"titok": run}
