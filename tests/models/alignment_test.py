"""The alignment heads: what a token's projection depends on."""

import jax
import numpy as np
import pytest

from softvq_jax.models.alignment import AlignmentHead, AlignmentTransformer
from softvq_jax.models.functional import functional

NETS = {
    "mlp": functional(AlignmentHead, 5, 64, 24),
    "vit": functional(AlignmentTransformer, 8, 5, 64, 24, depth=2),
}


@pytest.mark.parametrize(("name", "mixes"), [("mlp", False), ("vit", True)])
def test_only_the_transformer_mixes_tokens(name, mixes):
    net, rng = NETS[name], np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape)), net.shapes)
    latents = np.float32(rng.standard_normal((2, 8, 5)))
    latents[1] = latents[0]
    latents[1, 3] += 1.0
    projected = np.asarray(jax.jit(lambda params, x: net(params)(x))(params, latents))
    assert projected.shape == (2, 8, 24)
    change = np.abs(projected[1] - projected[0]).max(-1)
    assert change[3] > 1e-3 and (np.delete(change, 3).max() > 1e-3) == mixes
