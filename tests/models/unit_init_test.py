"""The unit initialization: the sizes of its parameters, and that latents differ before any training."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from softvq_jax.models.functional import functional
from softvq_jax.models.tokenizer import TokenizerModel
from tests import small_maetok, small_titok, small_tokenizers

SHAPE = dict(encoder=small_tokenizers.vit(width=64, depth=2), decoder=small_tokenizers.vit(width=48))


def parameters(**options) -> dict[str, np.ndarray]:
    network = functional(TokenizerModel, small_tokenizers.config(**SHAPE, **options))
    tree, _ = jax.jit(network.init)(jax.random.key(0))
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


@pytest.mark.slow
def test_kernels_keep_the_size_of_their_inputs_and_tokens_are_half():
    unit, usual = parameters(unit_init=True), parameters()
    changed = {path for path in unit if not np.array_equal(unit[path], usual[path])}
    names = {path.rsplit("/", 1)[-1] for path in changed}
    assert names == {"kernel", "pos_embed", "latent_pos_embed", "latent_tokens", "mask_token", "cls_token"}
    assert not any(path.startswith("bottleneck/") for path in changed)
    for path in changed:
        expected = unit[path].shape[-2] ** -0.5 if path.endswith("kernel") else 0.5
        if path == "decoder/embed_latents/kernel":  # latents of a codebook have norm 1
            expected = 1.0
        assert np.std(unit[path]) == pytest.approx(expected, rel=4 / unit[path].size ** 0.5), path
    # Equal blocks of a stack start with different weights.
    first, second = unit["encoder/vit/transformer/blocks/attn/qkv/kernel"]
    assert not np.any(first == second)


def test_both_initializations_are_refused():
    with pytest.raises(ValueError, match="local_init and unit_init are both true"):
        small_tokenizers.config(local_init=True, unit_init=True)


@pytest.mark.parametrize("name", ["local_init", "unit_init", "grid_init"])
@pytest.mark.parametrize("make", [small_maetok.config, lambda **changes: small_titok.config("vq", **changes)])
def test_other_kinds_of_tokenizers_refuse_them(name, make):
    with pytest.raises(ValueError, match=f"{name} is true, but a (MAETok|TiTok) always starts as its authors' does"):
        make(**{name: True})
