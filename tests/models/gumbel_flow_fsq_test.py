"""Gumbel-softmax, TokenFlow's shared index and FSQ against closed forms in float64 NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from softvq_jax.models.fsq import FSQ
from softvq_jax.models.functional import functional
from softvq_jax.models.nearest_code import TokenFlow
from softvq_jax.models.quantizers import BOTTLENECKS
from softvq_jax.models.soft_codes import GumbelSoftmax
from softvq_jax.models.tokenizer import TokenizerConfig
from tests import small_tokenizers

B, L, D, K, C = 3, 8, 5, 12, 2
RNG = np.random.default_rng(0)
Z = RNG.standard_normal((B, L, D), np.float32)
CODEBOOK = RNG.standard_normal((C, K, D), np.float32)
LEVELS = (4, 5, 2, 3)
ARGS = {"gumbel": {}, "token_flow": {"semantic_dim": 4}, "fsq": {"levels": LEVELS}}
SIZES = {"fsq": dict(latent_dim=len(LEVELS), codebook_size=math.prod(LEVELS), num_codebooks=1)}


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def config(name: str, **changes) -> TokenizerConfig:
    return small_tokenizers.config(name, **{"bottleneck_args": ARGS[name], **SIZES.get(name, {}), **changes})


def gumbel(**options):
    return functional(
        GumbelSoftmax, D, K, C, **dict(temperature=0.5, l2_normalize=False, posterior="released") | options
    )


def gumbel_logits():
    """`[B, L, K]`, for each token those of its segment's codebook."""
    return np.stack([np.float64(Z[:, t]) @ np.float64(CODEBOOK[t // (L // C)]).T for t in range(L)], 1) / 0.5


def average(weights):
    return np.stack([weights[:, t] @ np.float64(CODEBOOK[t // (L // C)]) for t in range(L)], 1)


def test_gumbel_relaxation_is_a_softmax_of_noisy_logits():
    key, net = jax.random.key(3), gumbel(start=0.9, floor=0.3, anneal_steps=10)
    noise = np.float64(jax.random.gumbel(key, (C, B, L // C, K))).transpose(1, 0, 2, 3).reshape(B, L, K)
    out = jax.jit(lambda z, step: net({"codebook": jnp.asarray(CODEBOOK)})(z, step=step, key=key))(Z, 5)
    # Half way of half a cosine from 0.9 to 0.3.
    assert out.stats["gumbel_tau"] == pytest.approx(0.6)
    np.testing.assert_allclose(out.latents, average(softmax((gumbel_logits() + noise) / 0.6, axis=-1)), atol=1e-5)
    np.testing.assert_array_equal(out.indices.reshape(B, L), (gumbel_logits() + noise).argmax(-1))
    log_p = log_softmax(gumbel_logits(), axis=-1)
    assert out.losses["prior"] == pytest.approx((np.exp(log_p) * (log_p + np.log(K))).sum(-1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("step", "tau"), [(0, 1.0), (250, 0.0625 + 0.9375 * (1 + 2**-0.5) / 2), (1000, 0.0625), (2000, 0.0625)]
)
def test_gumbel_tau_falls_like_half_a_cosine(step, tau):
    assert gumbel(anneal_steps=1000)({"codebook": jnp.asarray(CODEBOOK)}).tau(jnp.int32(step)) == pytest.approx(tau)


def test_gumbel_draws_codes_from_the_posterior():
    """Gumbel-max: `argmax(l + g)` has the distribution `softmax(l)`."""
    net = functional(GumbelSoftmax, 2, 3, 1, temperature=1.0, l2_normalize=False, posterior="released")
    codes, z = np.float32([[[1, 0], [0, 1], [-1, 0]]]), np.float32([0.8, -0.3])
    tokens = jnp.broadcast_to(z, (4, 10_000, 2))
    drawn = jax.jit(lambda z: net({"codebook": jnp.asarray(codes)})(z, step=0, key=jax.random.key(0)).indices)(tokens)
    shares = np.bincount(np.asarray(drawn).reshape(-1), minlength=3) / 40_000
    np.testing.assert_allclose(shares, softmax(codes[0] @ z), atol=0.01)


def test_gumbel_hard_latents_are_codes_with_the_gradient_of_the_average():
    def latents(hard):
        net = gumbel(hard=hard)
        return lambda z: net({"codebook": jnp.asarray(CODEBOOK)})(z, step=3, key=jax.random.key(1))

    out, soft = jax.jit(latents(True))(Z), jax.jit(latents(False))(Z)
    hard_codes = [
        [CODEBOOK[t // (L // C), np.asarray(out.indices).reshape(B, L)[b, t]] for t in range(L)] for b in range(B)
    ]
    np.testing.assert_allclose(out.latents, hard_codes, atol=1e-5)
    assert np.abs(out.latents - soft.latents).max() > 0.1
    cotangent = RNG.standard_normal((B, L, D), np.float32)
    grads = [jax.jit(jax.grad(lambda z: jnp.sum(f(z).latents * cotangent)))(Z) for f in (latents(True), latents(False))]  # noqa: B023
    np.testing.assert_allclose(grads[0], grads[1], atol=1e-6)


def test_gumbel_inference_takes_the_most_probable_code():
    module = gumbel()({"codebook": jnp.asarray(CODEBOOK)})
    indices = module.encode_indices(Z)
    np.testing.assert_array_equal(np.asarray(indices).reshape(B, L), gumbel_logits().argmax(-1))
    np.testing.assert_array_equal(module(Z).latents, module.encode(Z))


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_token_flow_shares_the_index_of_the_smallest_sum(weight):
    semantic, pixel = CODEBOOK[..., :3], CODEBOOK[..., 3:]
    net = functional(TokenFlow, D, K, C, semantic_dim=3, pixel_weight=weight)
    out = jax.jit(lambda z: net({"semantic": jnp.asarray(semantic), "pixel": jnp.asarray(pixel)})(z))(Z)
    unit = lambda x: np.float64(x) / np.linalg.norm(np.float64(x), axis=-1, keepdims=True)  # noqa: E731
    segments = Z.reshape(B, C, L // C, 1, D)
    parts = ((segments[..., :3], semantic, 1.0), (segments[..., 3:], pixel, weight))
    distance = sum(w * ((unit(z) - unit(codes)[:, None]) ** 2).sum(-1) for z, codes, w in parts)
    nearest = distance.argmin(-1)
    np.testing.assert_array_equal(out.indices, nearest)
    joined = np.concatenate([unit(semantic), unit(pixel)], -1)
    expected = np.stack([joined[c, nearest[:, c]] for c in range(C)], 1).reshape(B, L, D)
    np.testing.assert_allclose(out.latents, expected, atol=1e-5)
    z = np.concatenate([unit(Z[..., :3]), unit(Z[..., 3:])], -1)
    for name in ("codebook", "commitment"):
        assert out.losses[name] == pytest.approx(((z - expected) ** 2).mean(), rel=1e-5)


def test_token_flow_index_differs_from_that_of_one_half():
    """Neither half alone determines the index."""
    semantic, pixel = CODEBOOK[..., :3], CODEBOOK[..., 3:]
    indices = {}
    for weight in (1e-6, 1.0, 1e6):
        net = functional(TokenFlow, D, K, C, semantic_dim=3, pixel_weight=weight)
        indices[weight] = np.asarray(
            net({"semantic": jnp.asarray(semantic), "pixel": jnp.asarray(pixel)}).encode_indices(Z)
        )
    assert not np.array_equal(indices[1.0], indices[1e-6]) and not np.array_equal(indices[1.0], indices[1e6])


def test_fsq_example_of_the_paper():
    """The example in the paper's published notebook: levels 3, 5, 4."""
    fsq, z = FSQ((3, 5, 4)), np.float32([[[0.25, 0.6, -7.0]]])
    np.testing.assert_array_equal(fsq.encode(z), [[[0.0, 0.5, -1.0]]])
    np.testing.assert_array_equal(fsq.encode_indices(z), [[[10]]])


def test_fsq_has_a_code_for_every_index():
    fsq, size = FSQ(LEVELS), math.prod(LEVELS)
    codes = np.asarray(fsq.lookup(np.arange(size)[None, None]))[0]
    axes = [np.arange(n) - n // 2 for n in LEVELS]
    expected = [tuple(i / (n // 2) for i, n in zip(point, LEVELS, strict=True)) for point in itertools.product(*axes)]
    np.testing.assert_allclose(sorted(map(tuple, codes)), sorted(expected), atol=1e-6)
    # Inputs far from 0 reach the outermost levels, and none lie beyond them.
    z = np.float32(8 * RNG.standard_normal((4, 500, len(LEVELS))))
    indices = np.asarray(fsq.encode_indices(z))
    assert indices.shape == (4, 1, 500) and indices.min() == 0 and indices.max() == size - 1
    np.testing.assert_array_equal(fsq.lookup(indices), fsq.encode(z))


def test_fsq_gradient_is_that_of_the_bound():
    fsq, z = FSQ(LEVELS), np.float64(Z[..., :4])
    grad = jax.jit(jax.grad(lambda z: jnp.sum(fsq(z).latents)))(np.float32(z))
    levels = np.array(LEVELS)
    half = (levels - 1) * 1.001 / 2
    shift = np.arctanh(np.where(levels % 2, 0, 0.5) / half)
    np.testing.assert_allclose(grad, half / np.cosh(z + shift) ** 2 / (levels // 2), atol=1e-6)


@pytest.mark.parametrize("name", ARGS)
def test_indices_determine_the_latents(name, tmp_path):
    """Through `Tokenizer`, and through files."""
    tokenizer = small_tokenizers.tokenizer(config(name))
    images = small_tokenizers.images()
    indices, latents = tokenizer.encode_indices(images), tokenizer.encode(images)
    codebooks = tokenizer.config.num_codebooks
    assert indices.shape == (3, codebooks, small_tokenizers.NUM_TOKENS // codebooks)
    assert len(np.unique(indices)) > 2 and indices.max() < tokenizer.config.codebook_size
    np.testing.assert_array_equal(tokenizer.decode_indices(indices), tokenizer.decode(latents))
    tokenizer.save_pretrained(tmp_path / "saved")
    opened = type(tokenizer).from_pretrained(tmp_path / "saved")
    assert opened.config == tokenizer.config
    np.testing.assert_array_equal(opened.encode_indices(images), indices)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fsq", {"bottleneck_args": {}}, r"levels is \(\); FSQ expects integers of at least 2"),
        ("fsq", {"codebook_size": 99}, r"codebook_size is 99; FSQ with levels \(4, 5, 2, 3\) needs 120"),
        ("fsq", {"latent_dim": 6}, "latent_dim is 6; FSQ .* needs 4"),
        ("fsq", {"num_codebooks": 2}, "num_codebooks is 2; FSQ .* needs 1"),
        ("token_flow", {"bottleneck_args": {"semantic_dim": 6}}, "semantic_dim is 6; expected 1 to 5"),
        ("gumbel", {"bottleneck_args": {"floor": 0.0}}, "floor is 0.0; expected a number above 0"),
    ],
)
def test_wrong_arguments_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        config(name, **changes)


def test_every_bottleneck_that_does_not_read_published_files_says_so():
    """Otherwise a file of another bottleneck would be opened as the last one registered."""
    for name in ARGS:
        assert BOTTLENECKS[name].published_config({"quantize.embedding": np.zeros((1, 2, 3))}, {}) is None
