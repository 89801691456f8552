"""Kind `tokenizer`: whole models in the published layout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.losses import alignment
from softvq_jax.models.alignment import AlignmentHead
from softvq_jax.models.dinov2 import imagenet_normalize
from softvq_jax.models.tokenizer import TokenizerModel
from softvq_jax.models.vit import ViT
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import layout
from softvq_jax.weights.tokenizer import alignment_rules, config_of
from softvq_jax.weights.vit import vit_config_of, vit_rules
from tests.parity import recipe


def run(case, arrays):
    state = recipe.state_dict(case)
    images = jnp.asarray(recipe.images(case["count"], case["size"], case["seed"]).transpose(0, 2, 3, 1))
    config = config_of(state, case["arguments"])
    assert config.bottleneck == case["bottleneck"]
    tokenizer = Tokenizer.from_tensors(config, state, published=case["arguments"], source="case")
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: TokenizerModel(config, rngs=nnx.Rngs(0))))

    @jax.jit
    def forward(params, images):
        model = nnx.merge(graphdef, params)
        z = model.pre_bottleneck(images)
        bottlenecked = model.bottleneck(z)
        return z, bottlenecked, model.decode(bottlenecked.latents)

    z, bottlenecked, recon = forward(tokenizer.params, images)
    recon = np.asarray(recon).transpose(0, 3, 1, 2)
    results = {
        "z": z,
        "z_q": bottlenecked.latents,
        "recon_sub4": recon[:, :, ::4, ::4],
        "recon_mean": recon.mean((2, 3)),
        "recon_std": recon.std((2, 3)),
    }
    _assert_public_api_agrees(tokenizer, images, bottlenecked, recon)
    return results | _OF_BOTTLENECK[config.bottleneck](
        case, state, config, graphdef, tokenizer.params, images, bottlenecked
    )


def _assert_public_api_agrees(tokenizer, images, bottlenecked, recon):
    np.testing.assert_allclose(tokenizer.encode(images), bottlenecked.latents, atol=1e-5)
    np.testing.assert_allclose(tokenizer.reconstruct(images), recon.transpose(0, 2, 3, 1).clip(-1, 1), atol=1e-4)


def _softvq(case, state, config, graphdef, params, images, out):
    a = case["arguments"]
    key, mode = "repa_model.", a["repa_align"]
    teacher_config = vit_config_of(state, key, patch_size=state[f"{key}patch_embed.proj.weight"].shape[-1])
    teacher = _load(
        lambda: ViT(teacher_config, case["size"], rngs=nnx.Rngs(0)), vit_rules(teacher_config, "", key), state
    )
    head = _load(
        lambda: AlignmentHead(config.latent_dim, a["repa_proj_dim"], teacher_config.width, rngs=nnx.Rngs(0)),
        alignment_rules(),
        state,
    )
    patches = jax.jit(teacher)(imagenet_normalize(images))[:, teacher.num_prefix_tokens :]

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients(params):
        model = nnx.merge(graphdef, params)
        bottlenecked = model.bottleneck(model.pre_bottleneck(images))
        projected = head(alignment.alignment_inputs(mode, bottlenecked.latents))
        targets = alignment.alignment_targets(mode, patches, config.num_latent_tokens)
        align = a["repa_loss_weight"] * alignment.alignment_loss(projected, targets)
        entropy = a["entropy_loss_ratio"] * bottlenecked.losses["entropy"]
        return entropy + align, (entropy, align)

    grads, (entropy, align) = gradients(params)
    batch, count, length = out.indices.shape
    # The release orders its indices [C, B, L/C] and views that as [B, C, L/C].
    released = np.asarray(out.indices).transpose(1, 0, 2).reshape(batch, count, length)
    return {
        "indices": released,
        "max_probs": out.stats["max_probability"],
        "cosine": out.stats["quantizer_cosine"],
        "entropy_loss": entropy,
        "align_loss": align,
        "grad_codebook_norm": jnp.linalg.norm(grads["bottleneck"]["codebook"], axis=(1, 2)),
        "target_features_sub": patches[:, ::16],
    } | _encoder_grads(grads)


def _vq(case, state, config, graphdef, params, images, out):
    cotangent = recipe.noise("cotangent", out.latents.shape, case["seed"])
    ratio = case["arguments"]["entropy_loss_ratio"]

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients(params):
        model = nnx.merge(graphdef, params)
        bottlenecked = model.bottleneck(model.pre_bottleneck(images))
        losses = bottlenecked.losses
        weighted = (losses["codebook"], 0.25 * losses["commitment"], ratio * losses["entropy"])
        return jnp.sum(bottlenecked.latents * cotangent) + sum(weighted), weighted

    grads, (vq, commit, entropy) = gradients(params)
    return {
        "indices": np.asarray(out.indices).reshape(-1),
        "vq_loss": vq,
        "commit_loss": commit,
        "entropy_loss": entropy,
        "grad_codebook": grads["bottleneck"]["codebook"][0],
    } | _encoder_grads(grads)


def _kl(case, state, config, graphdef, params, images, out):
    model = nnx.merge(graphdef, params)
    z = model.pre_bottleneck(images)
    mean, log_variance = model.bottleneck.moments(z)
    each = [model.bottleneck(z[i : i + 1]).losses["kl"] for i in range(len(z))]
    return {"mean": mean, "logvar": log_variance, "kl": np.stack(each)}


def _ae(case, state, config, graphdef, params, images, out):
    return {}


_OF_BOTTLENECK = {"softvq": _softvq, "vq": _vq, "kl": _kl, "ae": _ae}


def _encoder_grads(grads):
    return {
        "grad_quant_conv": grads["to_latents"]["kernel"].T,
        "grad_latent_tokens": grads["encoder"]["latent_tokens"][None],
    }


def _load(make, rules, state):
    graphdef, own = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, layout.read(rules, state, nnx.to_pure_dict(own), source="case"))


KINDS = {"tokenizer": run}
