"""The unit initialization: the sizes of its parameters and of embedded latents, and how fast codes turn."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

from softvq_jax.models.functional import functional
from softvq_jax.models.soft_codes import SoftVQ
from softvq_jax.models.tokenizer import TokenizerModel
from softvq_jax.models.unit_init import TOKEN_STD, start_codes
from softvq_jax.unit_vectors import unit_vectors
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
    codebook, embed = "bottleneck/codebook", "decoder/embed_latents/kernel"
    tokens = {"pos_embed", "latent_pos_embed", "latent_tokens", "mask_token", "cls_token"}
    assert names == {"kernel", "codebook"} | tokens
    np.testing.assert_allclose(unit_vectors(unit[codebook]), unit_vectors(usual[codebook]), atol=1e-6)
    for path in changed - {codebook, embed}:
        expected = unit[path].shape[-2] ** -0.5 if path.endswith("kernel") else 0.5
        assert np.std(unit[path]) == pytest.approx(expected, rel=4 / unit[path].size ** 0.5), path
    # Equal blocks of a stack start with different weights.
    first, second = unit["encoder/vit/transformer/blocks/attn/qkv/kernel"]
    assert not np.any(first == second)


@pytest.mark.parametrize("start", ["unit_init", pytest.param("local_init", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("bottleneck", "options"),
    [
        ("softvq", dict(latent_dim=128, codebook_size=2048)),
        pytest.param("ae", {}, marks=pytest.mark.slow),
        pytest.param("kl", {}, marks=pytest.mark.slow),
        pytest.param("vq", {}, marks=pytest.mark.slow),
        pytest.param("token_flow", dict(bottleneck_args=dict(semantic_dim=2)), marks=pytest.mark.slow),
    ],
)
def test_embedded_latents_are_as_large_as_tokens(start, bottleneck, options):
    """Before any training, whatever the norm of the latents is: 0.12 for this SoftVQ, `D^0.5` for AE."""
    config = small_tokenizers.config(**SHAPE, bottleneck=bottleneck, **options, **{start: True})
    network = functional(TokenizerModel, config)

    @jax.jit
    def embedded(key):
        model = network(network.init(key)[0])
        z = jax.random.normal(jax.random.key(1), (8, config.num_latent_tokens, model.bottleneck.input_dim))
        return model.decoder.embed_latents(model.bottleneck.encode(z))

    latents = np.asarray(embedded(jax.random.key(0)))
    channels = 1 + np.arange(24) * 2 if start == "local_init" else slice(None)  # the others hold positions
    size = 1.0 if start == "local_init" else TOKEN_STD
    assert np.sqrt(np.mean(latents[..., channels] ** 2)) == pytest.approx(size, rel=0.2)


def test_a_step_of_adam_turns_codes_a_little_not_altogether():
    def cosine_after_a_step(*, scaled):
        bottleneck = SoftVQ(32, 512, 1, temperature=0.07, l2_normalize=True, posterior="released", rngs=nnx.Rngs(0))
        if scaled:
            start_codes(bottleneck)
        z, target = jax.random.normal(jax.random.key(0), (2, 8, 16, 32))
        before = bottleneck.codes()
        loss = lambda bottleneck: jax.numpy.mean((bottleneck(z).latents - target) ** 2)  # noqa: E731
        gradient = nnx.grad(loss)(bottleneck)["codebook"][...]
        adam = optax.adam(0.003)
        update, _ = adam.update(gradient, adam.init(gradient))
        bottleneck.codebook[...] = bottleneck.codebook[...] + update
        return float(np.mean(np.sum(np.asarray(before) * np.asarray(bottleneck.codes()), axis=-1)))

    assert cosine_after_a_step(scaled=True) > 0.9999
    assert cosine_after_a_step(scaled=False) < 0.6


def test_both_initializations_are_refused():
    with pytest.raises(ValueError, match="local_init and unit_init are both true"):
        small_tokenizers.config(local_init=True, unit_init=True)


@pytest.mark.parametrize("name", ["local_init", "unit_init", "grid_init"])
@pytest.mark.parametrize("make", [small_maetok.config, lambda **changes: small_titok.config("vq", **changes)])
def test_other_kinds_of_tokenizers_refuse_them(name, make):
    with pytest.raises(ValueError, match=f"{name} is true, but a (MAETok|TiTok) always starts as its authors' does"):
        make(**{name: True})
