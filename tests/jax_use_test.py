"""Tokenizer and generator in a user's own JAX code: transformations, pytrees, meshes."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from softvq_jax.generator import Generator
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.tokenizer import Tokenizer
from tests import generator_test, programs
from tests import small_tokenizers as small

IMAGES = small.images()
TOKENIZER = small.tokenizer(small.config())
LATENTS = np.float32(np.random.default_rng(0).standard_normal((3, small.NUM_TOKENS, small.DIM)))
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
assert_trees_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)


@pytest.mark.parametrize("method", ["encode", "reconstruct", "pre_bottleneck", "posterior"])
def test_methods_trace(method):
    call = getattr(TOKENIZER, method)
    expected = call(IMAGES)
    assert_close(jax.jit(call)(IMAGES), expected)
    if method == "encode":
        assert_close(jax.jit(jax.vmap(call))(IMAGES[:, None])[:, 0], expected)


def test_indices_trace():
    tokenizer = small.tokenizer(small.config("vq"))
    indices = jax.jit(tokenizer.encode_indices)(IMAGES)
    np.testing.assert_array_equal(indices, tokenizer.encode_indices(IMAGES))
    assert_close(jax.jit(tokenizer.decode_indices)(indices), tokenizer.decode_indices(indices))


def test_shapes_and_types_are_checked_while_tracing():
    with pytest.raises(ValueError, match=r"images have shape \(3, 3, 32, 32\); expected \[B, 32, 32, 3\]"):
        jax.jit(TOKENIZER.encode)(IMAGES.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="images are int32; expected floats"):
        jax.jit(TOKENIZER.encode)(np.int32(IMAGES))
    with pytest.raises(ValueError, match=r"latents have shape \(3, 6, 8\)"):
        jax.jit(TOKENIZER.decode)(LATENTS.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="expected integers"):
        jax.jit(small.tokenizer(small.config("vq")).decode_indices)(np.zeros((1, 2, 4)))


def test_gradient_through_decode_agrees_with_finite_differences():
    weights = np.float32(np.random.default_rng(1).standard_normal(IMAGES.shape))
    loss = jax.jit(lambda latents: jnp.vdot(weights, TOKENIZER.decode(latents, clip=False)))
    gradient = jax.grad(loss)(jnp.asarray(LATENTS))
    step = 1e-2 * gradient / jnp.linalg.norm(gradient)
    slope = float(loss(LATENTS + step) - loss(LATENTS - step)) / 2e-2
    assert slope == pytest.approx(float(jnp.linalg.norm(gradient)), rel=0.02)


def test_uint8_images_are_scaled():
    levels = np.uint8(np.round(127.5 * IMAGES + 127.5))
    expected = TOKENIZER.encode(np.float32(levels) / 127.5 - 1)
    assert_close(TOKENIZER.encode(levels), expected)
    assert_close(jax.jit(TOKENIZER.encode)(levels), expected)


def test_images_from_0_to_1_give_one_warning():
    tokenizer = Tokenizer(TOKENIZER.config, TOKENIZER.params)
    unscaled = (IMAGES + 1) / 2
    with pytest.warns(
        UserWarning, match=r"all image values are in \[0, 1\]; expected \[-1, 1\]: scale them by 2 \* x - 1"
    ):
        tokenizer.encode(unscaled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.encode(unscaled)  # told already
        Tokenizer(TOKENIZER.config, TOKENIZER.params).encode(np.zeros_like(IMAGES))  # a gray image
        Tokenizer(TOKENIZER.config, TOKENIZER.params).encode(IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize("family", generator_test.CONFIGS)
def test_sample_traces(family):
    generator = generator_test._generator(family)
    few = generator_test.FEW[family] | {"key": generator_test.KEY}
    labels = np.array([1, 2])
    for guidance in (1.0, 2.0):
        sample = functools.partial(generator.sample, guidance=guidance, **few)
        assert_close(jax.jit(sample)(labels), sample(labels), rtol=1e-3, atol=1e-3)
    # A scale that is an argument
    traced = jax.jit(lambda scale: generator.sample(labels, guidance=scale, **few))(2.0)
    assert_close(traced, sample(labels), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="type float32; expected integers"):
        jax.jit(sample)(np.float32(labels))


def test_tokenizers_are_pytrees():
    leaves, structure = jax.tree.flatten(TOKENIZER)
    assert len(leaves) == len(jax.tree.leaves(TOKENIZER.params))
    again = jax.tree.unflatten(structure, leaves)
    assert again.config == TOKENIZER.config
    np.testing.assert_array_equal(again.encode(IMAGES), TOKENIZER.encode(IMAGES))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(TOKENIZER)]
    assert ".params['bottleneck']['codebook']" in paths
    halved = jax.tree.map(lambda leaf: leaf / 2, TOKENIZER)
    np.testing.assert_array_equal(halved.params["decoder"]["mask_token"], TOKENIZER.params["decoder"]["mask_token"] / 2)


def test_equal_tokenizers_have_equal_structures():
    """So that two of them can be averaged, and a jitted function that takes one is compiled once."""
    one, two = (Tokenizer(TOKENIZER.config, TOKENIZER.params) for _ in range(2))
    other = Tokenizer(TOKENIZER.config, TOKENIZER.params, published={"vq_mean": 0.5, "vq_std": 2.0})
    assert jax.tree.structure(one) == jax.tree.structure(two) != jax.tree.structure(other)
    traces = []
    encode = jax.jit(lambda tokenizer, images: traces.append(1) or tokenizer.encode(images))
    assert_close(encode(one, IMAGES), encode(two, IMAGES))
    assert len(traces) == 1
    # What comes out of a jitted function has the statistics of what went in.
    assert jax.jit(lambda tokenizer: tokenizer)(other).latent_mean == 0.5
    assert jax.jit(lambda tokenizer: tokenizer)(one).latent_mean is None


def test_saved_after_a_trip_through_jit(tmp_path):
    trip = jax.jit(lambda tokenizer: jax.tree.map(lambda leaf: leaf * 1, tokenizer))(TOKENIZER)
    for name, tokenizer in (("a", TOKENIZER), ("b", trip)):
        tokenizer.save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("family", generator_test.CONFIGS)
def test_generators_are_pytrees(family):
    generator = generator_test._generator(family)
    leaves, structure = jax.tree.flatten(generator)
    again = jax.tree.unflatten(structure, leaves)
    few = generator_test.FEW[family] | {"key": generator_test.KEY}
    np.testing.assert_array_equal(again.sample([1], **few), generator.sample([1], **few))
    drawn = jax.jit(lambda generator, labels: generator.sample(labels, **few))(generator, np.array([1]))
    assert_close(drawn, generator.sample([1], **few), rtol=1e-3, atol=1e-3)
    assert jax.tree.structure(generator) == jax.tree.structure(
        Generator(generator.config, generator.params, generator.statistics)
    )
    assert jax.tree.structure(generator) != jax.tree.structure(
        Generator(generator.config, generator.params, LatentStatistics(0.0, 1.0))
    )


def test_readable():
    assert repr(TOKENIZER).startswith(
        "Tokenizer(32 px <-> 8 tokens of 6 channels, softvq, 2 x 16 codes, transformers 32 x 1 and 32 x 1, "
    )
    assert "parameters in float32, matmuls in float32)" in repr(TOKENIZER)
    assert "no parameters" in repr(jax.tree.map(lambda leaf: None, TOKENIZER))
    count = sum(leaf.size for leaf in jax.tree.leaves(generator_test._generator("sit").params))
    assert repr(generator_test._generator("sit")) == (
        f"Generator(sit, 7 classes -> 4 tokens of 3 channels, linear process, {count:,} parameters in float32, "
        "matmuls in float32)"
    )


def test_posterior_probabilities_give_the_latents():
    """A latent is the posterior's average of the unit codes, at any temperature."""
    codes = np.float64(TOKENIZER.params["bottleneck"]["codebook"])
    codes /= np.linalg.norm(codes, axis=-1, keepdims=True)
    for temperature in (None, 0.5):
        probabilities = TOKENIZER.posterior(IMAGES, temperature=temperature)
        assert probabilities.shape == (3, 2, 4, 16)
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
        latents = np.einsum("bclk,ckd->bcld", probabilities, codes).reshape(3, 8, 6)
        assert_close(TOKENIZER.encode(IMAGES, temperature=temperature), latents)
    z = np.float64(TOKENIZER.pre_bottleneck(IMAGES)).reshape(3, 2, 4, 6)
    logits = np.einsum("bcld,ckd->bclk", z / np.linalg.norm(z, axis=-1, keepdims=True), codes) / 0.5
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)


def test_temperature_is_an_argument_that_traces():
    encode = jax.jit(lambda temperature: TOKENIZER.encode(IMAGES, temperature=temperature))
    assert_close(encode(0.3), TOKENIZER.encode(IMAGES, temperature=0.3))
    assert_close(TOKENIZER.replace(temperature=0.3).encode(IMAGES), TOKENIZER.encode(IMAGES, temperature=0.3))
    with pytest.raises(ValueError, match="temperature is 0; expected a positive number"):
        TOKENIZER.encode(IMAGES, temperature=0)
    with pytest.raises(ValueError, match="temperature is 'high'; expected a number"):
        TOKENIZER.encode(IMAGES, temperature="high")
    with pytest.raises(ValueError, match="temperature was given, but the ae bottleneck has none"):
        small.tokenizer(small.config("ae")).encode(IMAGES, temperature=1.0)
    with pytest.raises(ValueError, match="the vq bottleneck has no probabilities of codes"):
        small.tokenizer(small.config("vq")).posterior(IMAGES)


def test_parameters_in_bfloat16_are_computed_with_in_float32():
    stored = Tokenizer(TOKENIZER.config, TOKENIZER.params, param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(stored.params)} == {np.dtype(jnp.bfloat16)}
    rounded = TOKENIZER.replace(params=jax.tree.map(lambda leaf: np.float32(leaf), stored.params))
    assert_close(stored.encode(IMAGES), rounded.encode(IMAGES))
    assert stored.encode(IMAGES).dtype == jnp.float32 and "bfloat16" in repr(stored)
    matmuls = TOKENIZER.replace(dtype="bfloat16")
    assert matmuls.config.dtype == "bfloat16" and matmuls.params is TOKENIZER.params


def test_replace_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="params have no parameter 'decoder/cls_token'"):
        TOKENIZER.replace(params={**TOKENIZER.params, "decoder": {}})
    with pytest.raises(ValueError, match=r"'bottleneck/codebook' has shape \(2, 16, 6\); expected \(2, 17, 6\)"):
        TOKENIZER.replace(codebook_size=17)
    with pytest.raises(ValueError, match=r"num_tokens.*; the fields are encoder, decoder, image_size"):
        TOKENIZER.replace(num_tokens=3)


@pytest.mark.slow
def test_a_fresh_tokenizer():
    one, same, other = (Tokenizer.init(TOKENIZER.config, jax.random.key(seed)) for seed in (0, 0, 1))
    assert jax.tree.structure(one) == jax.tree.structure(TOKENIZER)
    assert_trees_equal(one.params, same.params)
    assert not np.allclose(one.params["bottleneck"]["codebook"], other.params["bottleneck"]["codebook"])
    assert np.isfinite(one.reconstruct(IMAGES)).all()


def test_gradients_of_the_decoder_alone():
    latents = TOKENIZER.encode(IMAGES)

    @jax.jit
    def step(decoder):
        def loss(decoder):
            tokenizer = TOKENIZER.replace(params=TOKENIZER.params | {"decoder": decoder})
            return jnp.mean((tokenizer.decode(latents, clip=False) - IMAGES) ** 2)

        value, grads = jax.value_and_grad(loss)(decoder)
        return value, jax.tree.map(lambda p, g: p - 1e-3 * g, decoder, grads)

    decoder, values = TOKENIZER.params["decoder"], []
    for _ in range(4):
        value, decoder = step(decoder)
        values.append(float(value))
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    tuned = TOKENIZER.replace(params=TOKENIZER.params | {"decoder": decoder})
    np.testing.assert_array_equal(tuned.encode(IMAGES), latents)


def test_an_nnx_optimizer_trains_the_module():
    network = Tokenizer(TOKENIZER.config, TOKENIZER.params).network
    optimizer = nnx.Optimizer(network, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(network, optimizer):
        value, grads = nnx.value_and_grad(lambda n: jnp.mean((n.decode(n.encode(IMAGES)) - IMAGES) ** 2))(network)
        optimizer.update(network, grads)
        return value

    values = [float(step(network, optimizer)) for _ in range(3)]
    assert values[-1] < values[0]
    trained = TOKENIZER.replace(params=network)
    assert jax.tree.structure(trained) == jax.tree.structure(TOKENIZER)
    loss = jnp.mean((trained.reconstruct(IMAGES, clip=False) - IMAGES) ** 2)
    assert float(loss) < values[-1] * 1.01
    # The tokenizer that the network came from is as it was.
    np.testing.assert_array_equal(
        TOKENIZER.params["decoder"]["mask_token"], small.params(TOKENIZER.config)["decoder"]["mask_token"]
    )


@pytest.mark.heavy  # two minutes; `attention_test` calls the networks' attention inside `shard_map`
def test_meshes_of_the_user():
    """Results agree with those of one device, and a sharded batch stays sharded."""
    (output,) = programs.run("users_mesh", devices=8, timeout=600)
    cases = [line for line in output.splitlines() if ": " in line]
    for mesh in ("auto", "explicit", "two explicit axes", "the library's"):
        assert {f"{mesh}: {case}" for case in ("encode", "jit(encode)", "sample", "jit(sample)", "grad")} <= set(cases)
    assert "shard_map: sample" in cases
