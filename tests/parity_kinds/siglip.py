"""Kind `siglip`: the image encoder whose features a MAETok's auxiliary decoder predicts."""

import jax
import jax.numpy as jnp

from softvq_jax.models.dinov2 import patch_features
from softvq_jax.models.functional import functional
from softvq_jax.models.vit import ViT
from softvq_jax.weights import entries, siglip
from tests.parity import recipe


def run(case, arrays):
    tensors = entries.select_state_dict(recipe.state_dict(case), siglip.ANCHORS, source="case")
    sizes = dict(patch_size=case["patch"], image_size=case["size"])
    arguments, params = siglip.read_siglip(tensors, **sizes, source="case")
    network = functional(ViT, *arguments)
    images = jnp.asarray(recipe.images(case["count"], case["size"], case["seed"]).transpose(0, 2, 3, 1))
    return {"last_hidden": jax.jit(lambda params: patch_features(network(params), images))(params)}


KINDS = {"siglip": run}
