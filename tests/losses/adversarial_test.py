import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.losses.adversarial import discriminator_loss, generator_loss, lecam, lecam_update

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(1, 2, (2, 4, 30)).astype(np.float32)
KINDS = ("hinge", "vanilla", "non_saturating")


def probability(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def test_hinge():
    expected = (np.maximum(1 - REAL, 0).mean() + np.maximum(1 + FAKE, 0).mean()) / 2
    assert discriminator_loss("hinge", REAL, FAKE) == pytest.approx(expected, rel=1e-6)
    assert generator_loss("hinge", FAKE) == pytest.approx(-FAKE.mean(), rel=1e-5)


@pytest.mark.parametrize("kind", ["vanilla", "non_saturating"])
def test_logistic_discriminator_is_the_binary_cross_entropy(kind):
    expected = -(np.log(probability(REAL)).mean() + np.log(1 - probability(FAKE)).mean()) / 2
    assert discriminator_loss(kind, REAL, FAKE) == pytest.approx(expected, rel=1e-6)


def test_non_saturating_generator_is_minus_log_probability():
    assert generator_loss("non_saturating", FAKE) == pytest.approx(-np.log(probability(FAKE)).mean(), rel=1e-6)
    grad = jax.grad(lambda x: generator_loss("non_saturating", x))
    # The gradient grows with the discriminator's certainty that an image is generated: the loss does not saturate.
    lost, fooled = grad(jnp.float32(-10)), grad(jnp.float32(10))
    assert lost == pytest.approx(-1, rel=1e-3)
    assert -1e-3 < fooled < 0


@pytest.mark.parametrize("kind", KINDS)
def test_generator_and_discriminator_have_opposite_gradients(kind):
    real, fake = jax.grad(lambda r, f: discriminator_loss(kind, r, f), argnums=(0, 1))(jnp.zeros(3), jnp.zeros(3))
    assert (real < 0).all() and (fake > 0).all()
    assert (jax.grad(lambda f: generator_loss(kind, f))(jnp.zeros(3)) < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_low_precision_logits_are_float32(kind):
    low = jnp.asarray(FAKE, jnp.bfloat16)
    assert discriminator_loss(kind, low, low).dtype == generator_loss(kind, low).dtype == jnp.float32


def test_unknown_kind():
    for call in (lambda: discriminator_loss("hinged", REAL, FAKE), lambda: generator_loss("hinged", FAKE)):
        with pytest.raises(ValueError, match=r"'hinged'.*hinge, vanilla, non_saturating"):
            call()


def test_lecam_averages_are_geometric():
    averages = {"real": jnp.float32(0), "fake": jnp.float32(0)}
    for _ in range(5):
        averages = lecam_update(averages, REAL, FAKE, 0.9)
    assert averages["real"] == pytest.approx((1 - 0.9**5) * REAL.mean(), rel=1e-5)
    assert averages["fake"] == pytest.approx((1 - 0.9**5) * FAKE.mean(), rel=1e-5)


def test_lecam_and_its_gradient():
    averages = {"real": jnp.float32(0.5), "fake": jnp.float32(-0.25)}
    above, below = np.maximum(REAL + 0.25, 0), np.maximum(0.5 - FAKE, 0)
    assert lecam(averages, REAL, FAKE) == pytest.approx((above**2).mean() + (below**2).mean(), rel=1e-6)
    by_real, by_fake = jax.grad(lambda r, f: lecam(averages, r, f), argnums=(0, 1))(REAL, FAKE)
    np.testing.assert_allclose(by_real, 2 * above / above.size, rtol=1e-5)
    np.testing.assert_allclose(by_fake, -2 * below / below.size, rtol=1e-5)


def test_no_gradient_through_the_averages():
    def with_update(real, fake):
        averages = lecam_update({"real": jnp.float32(1), "fake": jnp.float32(-1)}, real, fake, 0.5)
        return lecam(averages, real, fake), averages

    grad, averages = jax.grad(with_update, has_aux=True)(REAL, FAKE)
    np.testing.assert_array_equal(grad, jax.grad(lambda r: lecam(averages, r, FAKE))(REAL))
