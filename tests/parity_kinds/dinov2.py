"""Kinds `dinov2` and `dinov2_hf`: the teacher, resampled."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.models.dinov2 import imagenet_normalize
from softvq_jax.models.vit import ViT
from softvq_jax.weights import dinov2, layout
from softvq_jax.weights.vit import vit_config_of, vit_rules
from tests.parity import recipe


def _features(case, *, patch_size, positions):
    tensors = dinov2.canonical(recipe.state_dict(case), "case")
    config = vit_config_of(tensors, patch_size=patch_size or tensors["patch_embed.proj.weight"].shape[-1])
    resampled = dinov2.resampled(tensors, patch_size=config.patch_size, image_size=case["size"], positions=positions)
    vit = ViT(config, case["size"], rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(vit)
    params = layout.read(vit_rules(config), resampled, nnx.to_pure_dict(state), source="case")
    return config, params, nnx.merge(graphdef, params), resampled


def run_dinov2(case, arrays):
    images = recipe.images(case["count"], case["size"], case["seed"]).transpose(0, 2, 3, 1)
    _config, params, vit, resampled = _features(case, patch_size=case["patch"], positions="antialiased")
    tokens = vit(imagenet_normalize(jnp.asarray(images)))
    return {
        "cls": tokens[:, 0],
        "patch_tokens_sub": tokens[:, vit.num_prefix_tokens :][:, ::8],
        "pos_embed_sub": params["pos_embed"][None, ::8],
        "patch_kernel_sub": resampled["patch_embed.proj.weight"][::16],
    }


def run_dinov2_hf(case, arrays):
    images = recipe.images(case["count"], case["size"], case["seed"]).transpose(0, 2, 3, 1)
    _, _, vit, _ = _features(case, patch_size=None, positions="hf")
    tokens = np.asarray(vit(jnp.asarray(images)))
    return {"last_hidden_sub": tokens[:, ::8], "pooled": tokens[:, 0]}


KINDS = {"dinov2": run_dinov2, "dinov2_hf": run_dinov2_hf}
