"""GAN losses of logits of any shape, and LeCam regularization; all in float32."""

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


# "vanilla" is VQGAN's pairing (Esser et al., 2021): the logistic discriminator against the generator of hinge.
# "non_saturating" is that of Goodfellow et al., 2014.
_LOSSES = {
    "hinge": (_hinge_discriminator, _linear_generator),
    "vanilla": (_logistic_discriminator, _linear_generator),
    "non_saturating": (_logistic_discriminator, _non_saturating_generator),
}


def discriminator_loss(kind: str, real: jax.Array, fake: jax.Array) -> jax.Array:
    """The discriminator's loss, from its logits of real and generated images.

    Args:
      kind: "hinge", "vanilla" or "non_saturating".

    Raises:
      ValueError: unknown kind.
    """
    return _losses(kind)[0](real.astype(jnp.float32), fake.astype(jnp.float32))


def generator_loss(kind: str, fake: jax.Array) -> jax.Array:
    """The generator's loss, from the logits of its images; `kind` as in `discriminator_loss`."""
    return _losses(kind)[1](fake.astype(jnp.float32))


def _losses(kind):
    if kind not in _LOSSES:
        raise ValueError(f"GAN loss is {kind!r}; expected one of {', '.join(_LOSSES)}")
    return _LOSSES[kind]


def lecam_update(averages: Averages, real: jax.Array, fake: jax.Array, decay: float) -> Averages:
    """Moving averages of the mean logits, updated by one batch. They start at 0 and carry no gradient."""
    means = {"real": jnp.mean(real.astype(jnp.float32)), "fake": jnp.mean(fake.astype(jnp.float32))}
    return {name: decay * averages[name] + (1 - decay) * jax.lax.stop_gradient(means[name]) for name in means}


def lecam(averages: Averages, real: jax.Array, fake: jax.Array) -> jax.Array:
    """LeCam regularizer (Tseng et al., 2021, arXiv 2104.03310, equation 3); `averages` already include this batch.

    One-sided, as in the released code: it pulls real logits down to the average fake logit, and fake logits up to the
    average real one.
    """
    averages = jax.lax.stop_gradient(averages)
    above = jax.nn.relu(real.astype(jnp.float32) - averages["fake"])
    below = jax.nn.relu(averages["real"] - fake.astype(jnp.float32))
    return jnp.mean(jnp.square(above)) + jnp.mean(jnp.square(below))
