"""Bottlenecks against closed forms in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax, softmax

from softvq_jax.models import codebook
from softvq_jax.models.functional import functional
from softvq_jax.models.quantizers import AE, KL, VQ, SimVQ, SoftVQ

B, L, D, K, C = 3, 8, 5, 12, 2
RNG = np.random.default_rng(0)
Z = RNG.standard_normal((B, L, D), np.float32)
CODEBOOK = RNG.standard_normal((C, K, D), np.float32)
COTANGENT = RNG.standard_normal((B, L, D), np.float32)
PROJECTION = {
    "projection": RNG.standard_normal((D, D), np.float32),
    "projection_bias": RNG.standard_normal(D, np.float32),
}


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def softvq(*, tau=0.07, l2=True, posterior="released"):
    shape = dict(temperature=tau, l2_normalize=l2, posterior=posterior)
    return functional(SoftVQ, D, K, C, **shape)


def vq(*, l2=False):
    return functional(VQ, D, K, C, l2_normalize=l2)


def simvq(*, train_codebook=False):
    return functional(SimVQ, D, K, C, train_codebook=train_codebook)


def run(net, z=Z, **params):
    return jax.jit(lambda params, z: net(params)(z))({"codebook": CODEBOOK} | params, z)


def grad(function, *arguments):
    """Gradients by all arguments."""
    return jax.jit(jax.grad(function, argnums=tuple(range(len(arguments)))))(*arguments)


def unit(x):
    x = np.float64(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def codebook_of(token):
    return token // (L // C)


def per_token(function):
    """`[B, L, ...]`: `function(z of the token, codes of its segment)` in float64."""

    def apply(z, codes):
        return np.stack([[function(np.float64(z[b, t]), codes[codebook_of(t)]) for t in range(L)] for b in range(B)])

    return apply


@per_token
def distances(z, codes):
    return ((z - codes) ** 2).sum(-1)


def released_logits(z, codes):
    return per_token(lambda z, codes: codes @ z)(z, codes)


def paper_logits(z, codes):
    return -np.sqrt(distances(z, codes))


LOGITS = {"released": released_logits, "paper": paper_logits}


@pytest.mark.parametrize("l2", [True, False])
@pytest.mark.parametrize("posterior", LOGITS)
def test_softvq_is_the_posterior_average(posterior, l2):
    out = run(softvq(tau=0.3, l2=l2, posterior=posterior))
    z, codes = (unit(Z), unit(CODEBOOK)) if l2 else (np.float64(Z), np.float64(CODEBOOK))
    logits = LOGITS[posterior](z, codes)
    p = softmax(logits / 0.3, axis=-1)
    expected = np.stack([[p[b, t] @ codes[codebook_of(t)] for t in range(L)] for b in range(B)])
    np.testing.assert_allclose(out.latents, expected, atol=1e-5)
    np.testing.assert_array_equal(out.indices, logits.argmax(-1).reshape(B, C, L // C))
    assert out.stats["max_probability"] == pytest.approx(p.max(-1).mean(), rel=1e-5)
    assert out.stats["quantizer_cosine"] == pytest.approx((unit(Z) * unit(expected)).sum(-1).mean(), rel=1e-4)
    q = softmax(logits.reshape(-1, K) / 0.01, axis=-1)
    entropy = -(q * log_softmax(logits.reshape(-1, K) / 0.01, axis=-1)).sum(-1).mean()
    mean = q.mean(0)
    assert out.losses["entropy"] == pytest.approx(entropy + (mean * np.log(mean + 1e-6)).sum(), rel=1e-3)


@pytest.mark.parametrize("posterior", LOGITS)
def test_softvq_limits_of_the_temperature(posterior):
    codes = unit(CODEBOOK)
    nearest = distances(unit(Z), codes).argmin(-1)
    hard = [[codes[codebook_of(t), nearest[b, t]] for t in range(L)] for b in range(B)]
    np.testing.assert_allclose(run(softvq(tau=1e-4, posterior=posterior)).latents, hard, atol=1e-5)
    mean = [[codes[codebook_of(t)].mean(0) for t in range(L)]] * B
    np.testing.assert_allclose(run(softvq(tau=1e6, posterior=posterior)).latents, mean, atol=1e-5)


def test_softvq_segments_use_their_own_codebook():
    other = CODEBOOK.copy()
    other[1] = RNG.standard_normal((K, D))
    before, after = run(softvq()).latents, run(softvq(), codebook=other).latents
    np.testing.assert_array_equal(after[:, : L // C], before[:, : L // C])
    assert (np.abs(after[:, L // C :] - before[:, L // C :]).max(-1) > 1e-3).all()


def test_softvq_released_codebook_learns_through_the_average_only():
    net = softvq(tau=0.3, l2=False)
    (by_codes,) = grad(lambda codes: jnp.sum(net({"codebook": codes})(Z).latents * COTANGENT), CODEBOOK)
    p = softmax(released_logits(Z, np.float64(CODEBOOK)) / 0.3, axis=-1).reshape(B, C, L // C, K)
    expected = np.einsum("bclk,bcld->ckd", p, np.float64(COTANGENT).reshape(B, C, L // C, D))
    np.testing.assert_allclose(by_codes, expected, atol=1e-5)


def test_softvq_paper_codebook_learns_through_the_posterior_too():
    net = softvq(tau=0.3, l2=False, posterior="paper")
    direction = RNG.standard_normal(CODEBOOK.shape)

    def objective(step):
        codes = CODEBOOK + step * direction
        p = softmax(paper_logits(Z, codes) / 0.3, axis=-1).reshape(B, C, L // C, K)
        return (np.einsum("bclk,ckd->bcld", p, codes) * COTANGENT.reshape(B, C, L // C, D)).sum()

    (by_codes,) = grad(lambda codes: jnp.sum(net({"codebook": codes})(Z).latents * COTANGENT), CODEBOOK)
    assert (by_codes * direction).sum() == pytest.approx((objective(1e-5) - objective(-1e-5)) / 2e-5, rel=1e-4)


def test_softvq_gradient_at_a_code_is_finite():
    """Where a token equals a code, its distance has no derivative."""
    net = softvq(l2=False, posterior="paper")
    z = CODEBOOK[:, :4].reshape(1, 8, D)
    (by_z,) = grad(lambda z: jnp.sum(net({"codebook": CODEBOOK})(z).latents), z)
    assert np.isfinite(by_z).all()


@pytest.mark.parametrize("make", [vq, simvq])
def test_nearest_code_and_losses(make):
    out = run(make(), **(PROJECTION if make is simvq else {}))
    codes = np.float64(CODEBOOK)
    if make is simvq:
        codes = codes @ PROJECTION["projection"] + PROJECTION["projection_bias"]
    nearest = distances(Z, codes).argmin(-1)
    expected = np.stack([[codes[codebook_of(t), nearest[b, t]] for t in range(L)] for b in range(B)])
    np.testing.assert_array_equal(out.indices, nearest.reshape(B, C, L // C))
    np.testing.assert_allclose(out.latents, expected, atol=1e-5)
    for name in ("codebook", "commitment"):
        assert out.losses[name] == pytest.approx(((Z - expected) ** 2).mean(), rel=1e-5)


def test_vq_on_unit_vectors():
    out = run(vq(l2=True))
    nearest = distances(unit(Z), unit(CODEBOOK)).argmin(-1)
    expected = np.stack([[unit(CODEBOOK)[codebook_of(t), nearest[b, t]] for t in range(L)] for b in range(B)])
    np.testing.assert_array_equal(out.indices, nearest.reshape(B, C, L // C))
    np.testing.assert_allclose(out.latents, expected, atol=1e-5)
    assert out.losses["commitment"] == pytest.approx(((unit(Z) - expected) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("make", [vq, simvq])
def test_straight_through(make):
    """The latents pass their gradient to z untouched, and none to the codebook."""
    net, params = make(), {"codebook": CODEBOOK} | (PROJECTION if make is simvq else {})
    by_params, by_z = grad(lambda params, z: jnp.sum(net(params)(z).latents * COTANGENT), params, Z)
    np.testing.assert_array_equal(by_z, COTANGENT)
    assert not any(np.any(leaf) for leaf in by_params.values())


def test_vq_straight_through_on_unit_vectors():
    """The gradient of the normalized z passes through the normalization, `(I - n n^T) / |z|`."""
    net = vq(l2=True)
    (by_z,) = grad(lambda z: jnp.sum(net({"codebook": CODEBOOK})(z).latents * COTANGENT), Z)
    along = (unit(Z) * COTANGENT).sum(-1, keepdims=True) * unit(Z)
    np.testing.assert_allclose(by_z, (COTANGENT - along) / np.linalg.norm(Z, axis=-1, keepdims=True), atol=1e-5)


def test_each_loss_has_gradients_only_for_its_own_side():
    net = vq()
    by_codes, by_z = grad(lambda codes, z: net({"codebook": codes})(z).losses["codebook"], CODEBOOK, Z)
    nearest = distances(Z, np.float64(CODEBOOK)).argmin(-1)
    expected = np.zeros((C, K, D))
    for b in range(B):
        for t in range(L):
            code = codebook_of(t), nearest[b, t]
            expected[code] += 2 * (np.float64(CODEBOOK[code]) - Z[b, t]) / Z.size
    np.testing.assert_allclose(by_codes, expected, atol=1e-6)
    assert not by_z.any()
    by_codes, by_z = grad(lambda codes, z: net({"codebook": codes})(z).losses["commitment"], CODEBOOK, Z)
    assert not by_codes.any() and (np.abs(by_z).max(-1) > 0).all()


@pytest.mark.parametrize("train_codebook", [False, True])
def test_simvq_codebook_is_frozen_unless_it_is_trained(train_codebook):
    net, params = simvq(train_codebook=train_codebook), {"codebook": CODEBOOK} | PROJECTION
    (grads,) = grad(lambda params: net(params)(Z).losses["codebook"], params)
    assert np.any(grads["codebook"]) == train_codebook
    assert np.any(grads["projection"]) and np.any(grads["projection_bias"])


def test_simvq_initialization():
    module = SimVQ(16, 4096, 1, train_codebook=False, rngs=nnx.Rngs(0))
    assert np.std(module.codebook[...]) == pytest.approx(16**-0.5, rel=0.02)
    for leaf in (module.projection[...], module.projection_bias[...]):
        assert np.abs(leaf).max() <= 0.25
    assert np.std(module.projection[...]) == pytest.approx(0.25 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("net", [softvq(), vq(), vq(l2=True), simvq()])
def test_inference_and_training_give_the_same_latents(net):
    params = {"codebook": CODEBOOK} | (PROJECTION if "projection" in net.shapes else {})
    apply = lambda method, x: jax.jit(lambda params, x: getattr(net(params), method)(x))(params, x)  # noqa: E731
    out, latents = apply("__call__", Z), apply("encode", Z)
    np.testing.assert_allclose(latents, out.latents, atol=1e-6)
    if net(params).discrete:
        np.testing.assert_array_equal(apply("encode_indices", Z), out.indices)
        np.testing.assert_array_equal(apply("lookup", out.indices), latents)


def test_indices_of_a_batch_are_in_order():
    """Tokens equal to codes give the codes' indices as `[B, C, L/C]`, unlike the release, which reshapes `(C, B, L/C)`."""
    indices = RNG.integers(0, K, (B, C, L // C))
    z = np.stack([[CODEBOOK[codebook_of(t), indices[b].reshape(-1)[t]] for t in range(L)] for b in range(B)])
    out = run(vq(), z)
    np.testing.assert_array_equal(out.indices, indices)
    np.testing.assert_allclose(out.latents, z, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (np.eye(K), -np.log(K)),  # sure of all codes alike
        (np.eye(K)[:1].repeat(K, 0), 0.0),  # sure of one
        (np.zeros((K, K)), 0.0),  # unsure
        (np.tile(np.arange(K) < K // 2, (K, 1)), 0.0),  # unsure among the same half
    ],
)
def test_entropy_loss_extremes(logits, expected):
    loss = jax.jit(codebook.entropy_loss, static_argnums=1)(np.float32(10 * logits), 1e-6)
    assert loss == pytest.approx(expected, abs=1e-4)


def test_perplexity_and_counts():
    one, every = np.zeros((B, 1, K), int), np.broadcast_to(np.arange(K), (B, 1, K))
    perplexity = jax.jit(codebook.perplexity, static_argnums=1)
    for a, b, expected in ((one, one, 1), (every, every, K), (one, every, (1 + K) / 2)):
        assert perplexity(np.concatenate([a, b], axis=1), K) == pytest.approx(expected, rel=1e-5)
    indices, weights = RNG.integers(0, K, (B, C, L)), np.array([1.0, 0.0, 2.0], np.float32)
    counted = [sum(w * np.bincount(indices[b, c], minlength=K) for b, w in enumerate(weights)) for c in range(C)]
    np.testing.assert_array_equal(codebook.code_counts(indices, K, weights), counted)


def test_kl_closed_form():
    z = RNG.standard_normal((B, L, 2 * D), np.float32)
    mean, log_variance = np.split(np.float64(z), 2, -1)
    out = jax.jit(KL(D))(z)
    expected = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum((1, 2)).mean()
    assert out.losses["kl"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(out.latents, z[..., :D])  # without a key, the mean
    assert out.indices is None and out.stats["latent_std"] == pytest.approx(np.exp(log_variance / 2).mean(), rel=1e-5)
    assert jax.jit(KL(D))(np.zeros_like(z)).losses["kl"] == 0  # the standard normal itself


def test_kl_samples():
    mean, log_variance = np.float32([2.0, -1.0]), np.float32([0.5, -2.0])
    z = jnp.broadcast_to(jnp.concatenate([mean, log_variance]), (4, 10_000, 4))
    samples = np.float64(jax.jit(KL(2))(z, key=jax.random.key(0)).latents)
    np.testing.assert_allclose(samples.mean((0, 1)), mean, atol=0.03)
    np.testing.assert_allclose(samples.std((0, 1)), np.exp(log_variance / 2), rtol=0.02)
    np.testing.assert_array_equal(KL(2).moments(np.float32([[0, 0, 99, -99]]))[1], [[20, -30]])


def test_ae_is_the_identity():
    out = AE(D)(Z)
    assert out.latents is Z and AE(D).encode(Z) is Z and not out.losses and out.indices is None
