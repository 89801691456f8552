import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.dino_trunk import DinoTrunk
from softvq_jax.models.discriminators import BatchNorm, DinoDiscriminator, Head, PatchGAN, SpectralConv1d, fit
from softvq_jax.models.resize import area_resize
from softvq_jax.models.vit import ViTConfig

TINY = ViTConfig(width=8, depth=4, num_heads=2, patch_size=4, activation="gelu_tanh", layer_scale=None)
RNG = np.random.default_rng(0)


def images(count=3, size=12):
    return jnp.asarray(np.random.default_rng(size).uniform(-1, 1, (count, size, size, 3)), jnp.float32)


def build(make):
    """Graph definition, parameters and buffers of `make(rngs)`, as plain dicts."""
    graphdef = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0]
    create = lambda: tuple(map(nnx.to_pure_dict, nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)[1:]))  # noqa: E731
    return graphdef, *jax.jit(create)()


def apply(graphdef, params, buffers, *args, **kwargs):
    """What the merged module returns, and its buffers afterwards."""
    module = nnx.merge(graphdef, params, buffers)
    return module(*args, **kwargs), nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))


@pytest.fixture(scope="module")
def trunk():
    return build(lambda rngs: DinoTrunk(TINY, 12, rngs=rngs))


@pytest.fixture(scope="module")
def dino():
    return build(lambda rngs: DinoDiscriminator(8, rngs=rngs))


def discriminate(discriminator, trunk, x, *, train):
    """Logits and the buffers afterwards, compiled."""
    graphdef, *state = discriminator
    run = lambda state, trunk_state: apply(graphdef, *state, nnx.merge(trunk[0], *trunk_state)(x), train=train)  # noqa: E731
    return jax.jit(run)(state, trunk[1:])


def test_batch_norm_normalizes_by_biased_and_keeps_unbiased_variance():
    norm = BatchNorm(4, epsilon=1e-6)
    norm.scale[...], norm.bias[...] = jnp.arange(1.0, 5.0), jnp.ones(4)
    x = RNG.normal(2, 3, (3, 5, 4)).astype(np.float32)
    flat = x.reshape(-1, 4)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-6) * np.arange(1, 5) + 1
    np.testing.assert_allclose(norm(x, train=True), expected, atol=1e-5)
    mean, var = 0.1 * flat.mean(0), 0.9 + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)
    evaluated = (x - mean) / np.sqrt(var + 1e-6) * np.arange(1, 5) + 1
    np.testing.assert_allclose(norm(x, train=False), evaluated, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)


def test_convolution_is_circular():
    conv = build(lambda rngs: SpectralConv1d(3, 2, 9, rngs=rngs))
    x = RNG.normal(size=(2, 11, 3)).astype(np.float32)
    kernel, bias, u, v = (np.asarray(leaf) for leaf in (conv[1]["kernel"], conv[1]["bias"], conv[2]["u"], conv[2]["v"]))
    sigma = np.einsum("o,kio,ki->", u, kernel, v)
    expected = sum(np.roll(x, 4 - k, axis=1) @ kernel[k] for k in range(9)) / sigma + bias
    np.testing.assert_allclose(apply(*conv, x, train=False)[0], expected, rtol=1e-4, atol=1e-5)


def test_spectral_norm_finds_the_largest_singular_value():
    graphdef, params, buffers = build(lambda rngs: SpectralConv1d(6, 5, 3, rngs=rngs))
    x = jnp.asarray(RNG.normal(size=(1, 8, 6)), jnp.float32)
    step = jax.jit(lambda buffers: apply(graphdef, params, buffers, x, train=True)[1])
    for _ in range(200):
        buffers = step(buffers)
    sigma = np.einsum("o,kio,ki->", buffers["u"], params["kernel"], buffers["v"])
    matrix = np.asarray(params["kernel"]).transpose(2, 1, 0).reshape(5, -1)
    assert sigma == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-5)


def test_spectral_norm_moves_once_before_use_and_its_gradient_holds_the_vectors():
    """d/dW of <G, W/sigma> is G/sigma - <G, W>/sigma^2 u v^T, with u and v after one iteration."""
    graphdef, params, buffers = build(lambda rngs: SpectralConv1d(3, 4, 1, rngs=rngs))
    x = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    w, u = np.asarray(params["kernel"][0]).T, np.asarray(buffers["u"])  # [out, in]
    v = w.T @ u / np.linalg.norm(w.T @ u)
    u = w @ v / np.linalg.norm(w @ v)
    sigma = u @ w @ v

    def total(params):
        y, moved = apply(graphdef, params, buffers, x, train=True)
        return jnp.sum(y), moved

    grads, moved = jax.grad(total, has_aux=True)(params)
    np.testing.assert_allclose(moved["u"], u, rtol=1e-4)
    np.testing.assert_allclose(moved["v"][0], v, rtol=1e-4)
    upstream = np.tile(x.sum((0, 1)), (4, 1))
    expected = upstream / sigma - (upstream * w).sum() / sigma**2 * np.outer(u, v)
    np.testing.assert_allclose(grads["kernel"][0].T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_heads_are_applied_each_to_its_feature(trunk, dino):
    head = nnx.split(nnx.eval_shape(lambda: Head(8, rngs=nnx.Rngs(0))))[0]
    one = jax.jit(lambda params, buffers, tokens: apply(head, params, buffers, tokens, train=True)[0])
    stacked = dino[1]["heads"], dino[2]["heads"]
    features = jax.jit(lambda state: nnx.merge(trunk[0], *state)(images()))(trunk[1:])
    alone = [one(*jax.tree.map(lambda leaf, i=i: leaf[i], stacked), tokens) for i, tokens in enumerate(features)]
    logits, _ = discriminate(dino, trunk, images(), train=True)
    assert logits.shape == (3, 5 * 9)
    np.testing.assert_allclose(logits, np.concatenate(alone, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dino", "patchgan"])
def test_buffers_go_through_jit_and_grad_as_plain_dicts(kind, trunk, dino):
    graphdef, params, buffers = {"dino": dino, "patchgan": build(lambda rngs: PatchGAN(4, 1, rngs=rngs))}[kind]
    seen = images() if kind == "patchgan" else jax.jit(lambda state: nnx.merge(trunk[0], *state)(images()))(trunk[1:])

    @jax.jit
    def step(params, buffers):
        def loss(params):
            logits, moved = apply(graphdef, params, buffers, seen, train=True)
            return jnp.mean(logits**2), moved

        return jax.grad(loss, has_aux=True)(params)

    grads, moved = step(params, buffers)
    _, again = step(params, moved)
    assert jax.tree.structure(moved) == jax.tree.structure(buffers)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        # Only biases that BatchNorm cancels have no gradient.
        assert np.any(grad) != jax.tree_util.keystr(path).endswith("['conv']['bias']"), path
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(moved)}
    assert names == ({"u", "v", "mean", "var"} if kind == "dino" else {"mean", "var"})
    for before, after in ((buffers, moved), (moved, again)):
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
            # A kernel with one output has its singular vectors after one iteration.
            assert "logit" in jax.tree_util.keystr(path) or not np.array_equal(x, y), path


@pytest.mark.slow
def test_evaluation_leaves_buffers_and_does_not_mix_examples(trunk, dino):
    together, buffers = discriminate(dino, trunk, images(), train=False)
    alone, _ = discriminate(dino, trunk, images()[:1], train=False)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, buffers, dino[2])


@pytest.mark.slow
def test_bfloat16_logits_are_float32_and_close(trunk, dino):
    coarse = nnx.split(nnx.eval_shape(lambda: DinoDiscriminator(8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))))[0]
    (a, _), (b, _) = (
        discriminate((graphdef, *dino[1:]), trunk, images(), train=True) for graphdef in (dino[0], coarse)
    )
    assert b.dtype == jnp.float32
    assert 0 < np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


def test_larger_images_are_cropped_half_of_the_time_at_one_place():
    x = images(2, 16)
    windows = {x[:, top : top + 12, left : left + 12].tobytes(): (top, left) for top in range(5) for left in range(5)}
    resized = np.asarray(area_resize(x, 12))
    fitted = jax.jit(lambda key: fit(x, 12, key))
    crops = []
    for key in jax.random.split(jax.random.key(0), 200):
        out = np.asarray(fitted(key))
        place = windows.get(out.tobytes())
        if place is None:
            np.testing.assert_allclose(out, resized, atol=1e-6)
        else:
            crops.append(place)
    assert 70 < len(crops) < 130
    assert {top for top, _ in crops} == {left for _, left in crops} == set(range(5))
    np.testing.assert_allclose(fit(x, 12), resized, atol=1e-6)


def test_images_of_the_right_size_and_smaller_ones_are_never_cropped():
    key = jax.random.key(0)
    np.testing.assert_array_equal(fit(images(), 12, key), images())
    np.testing.assert_array_equal(fit(images(), 20, key), fit(images(), 20))


@pytest.mark.parametrize(("size", "side"), [(64, 6), (256, 30), (96, 10)])
def test_patchgan_has_one_logit_per_patch(size, side):
    logits = jax.eval_shape(lambda x: PatchGAN(rngs=nnx.Rngs(0))(x, train=False), jnp.zeros((2, size, size, 3)))
    assert logits.shape == (2, side, side, 1)


@pytest.mark.slow
def test_a_patchgan_logit_sees_70_pixels():
    logit = lambda x: PatchGAN(width=2, rngs=nnx.Rngs(0))(x, train=False)[0, 6, 6, 0]  # noqa: E731
    grad = jax.jit(jax.grad(logit))(images(1, 128))
    rows = np.flatnonzero(np.abs(grad[0]).sum((1, 2)))
    assert rows[-1] - rows[0] + 1 == 70


def test_convolution_keeps_no_windows_for_the_backward_pass():
    graphdef, *state = nnx.split(SpectralConv1d(8, 8, 9, rngs=nnx.Rngs(0)), nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (4, 50, 8))
    _, pullback = jax.vjp(lambda state, x: nnx.merge(graphdef, *state)(x, train=True), state, x)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(pullback))
    assert kept < x.nbytes + 4 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))  # the windows are 9 * x.nbytes
