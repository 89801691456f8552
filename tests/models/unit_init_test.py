"""The unit initialization: the sizes of its parameters, and that latents differ before any training."""

import numpy as np
import pytest
from flax import nnx, traverse_util

from softvq_jax.models.tokenizer import TokenizerModel
from tests import small_tokenizers

SHAPE = dict(encoder=small_tokenizers.vit(width=64, depth=2), decoder=small_tokenizers.vit(width=48))


def model(**options) -> TokenizerModel:
    return TokenizerModel(small_tokenizers.config(**SHAPE, **options), rngs=nnx.Rngs(0))


def parameters(model) -> dict[str, np.ndarray]:
    tree = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def test_kernels_keep_the_size_of_their_inputs_and_tokens_are_half():
    unit, usual = parameters(model(unit_init=True)), parameters(model())
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
