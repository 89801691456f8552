"""GAN losses for logits of any shape, and LeCam regularization, in float32."""

import jax
import jax.numpy as jnp

Averages = dict[str, jax.Array]  # {"real", "fake"}: moving averages of the mean logits


def _hinge_discriminator(real, fake):
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def _logistic_discriminator(real, fake):
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


def _linear_generator(fake):
    return -jnp.mean(fake)


def _non_saturating_generator(fake):
    return jnp.mean(jax.nn.softplus(-fake))


# "vanilla" pairs the logistic discriminator loss with hinge's generator loss, as VQGAN does (Esser et al., 2021).
# "non_saturating" is the loss of Goodfellow et al., 2014.
_LOSSES = {
    "hinge": (_hinge_discriminator, _linear_generator),
    "vanilla": (_logistic_discriminator, _linear_generator),
    "non_saturating": (_logistic_discriminator, _non_saturating_generator),
}


def discriminator_loss(kind: str, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Returns the discriminator's loss, given its logits of real and generated images.

    Args:
      kind: "hinge", "vanilla" or "non_saturating".

    Raises:
      ValueError: unknown kind.
    """
    return _losses(kind)[0](real.astype(jnp.float32), fake.astype(jnp.float32))


def generator_loss(kind: str, fake: jax.Array) -> jax.Array:
    """Returns the generator's loss, given the logits of its images; `kind` as in `discriminator_loss`."""
    return _losses(kind)[1](fake.astype(jnp.float32))


def _losses(kind):
    if kind not in _LOSSES:
        raise ValueError(f"GAN loss is {kind!r}; expected one of {', '.join(_LOSSES)}")
    return _LOSSES[kind]


def lecam_update(averages: Averages, real: jax.Array, fake: jax.Array, decay: float) -> Averages:
    """Returns the moving averages of the mean logits after one batch. They start at 0 and have no gradient."""
    means = {"real": jnp.mean(real.astype(jnp.float32)), "fake": jnp.mean(fake.astype(jnp.float32))}
    return {name: decay * averages[name] + (1 - decay) * jax.lax.stop_gradient(means[name]) for name in means}


def lecam(averages: Averages, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Returns the LeCam regularizer (Tseng et al., 2021, arXiv 2104.03310, equation 3).

    `averages` already include this batch. The regularizer is one-sided, as in the released code: it penalizes real
    logits above the average fake logit, and fake logits below the average real logit.
    """
    averages = jax.lax.stop_gradient(averages)
    above = jax.nn.relu(real.astype(jnp.float32) - averages["fake"])
    below = jax.nn.relu(averages["real"] - fake.astype(jnp.float32))
    return jnp.mean(jnp.square(above)) + jnp.mean(jnp.square(below))
