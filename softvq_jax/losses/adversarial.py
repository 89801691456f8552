"""GAN losses on logits of any shape, and LeCam regularisation. All in float32."""

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
    """What the discriminator minimises, given its logits of real and generated images.

    Args:
      kind: "hinge", "vanilla" or "non_saturating".

    Raises:
      ValueError: for another kind.
    """
    return _losses(kind)[0](real.astype(jnp.float32), fake.astype(jnp.float32))


def generator_loss(kind: str, fake: jax.Array) -> jax.Array:
    """What the generator minimises, given the logits of its images; `kind` as in `discriminator_loss`."""
    return _losses(kind)[1](fake.astype(jnp.float32))


def _losses(kind):
    if kind not in _LOSSES:
        raise ValueError(f"GAN loss is {kind!r}; expected one of {', '.join(_LOSSES)}")
    return _LOSSES[kind]


def lecam_update(averages: Averages, real: jax.Array, fake: jax.Array, decay: float) -> Averages:
    """The averages one batch on; they start from 0 and carry no gradient."""
    means = {"real": jnp.mean(real.astype(jnp.float32)), "fake": jnp.mean(fake.astype(jnp.float32))}
    return {name: decay * averages[name] + (1 - decay) * jax.lax.stop_gradient(means[name]) for name in means}


def lecam(averages: Averages, real: jax.Array, fake: jax.Array) -> jax.Array:
    """LeCam regulariser (Tseng et al., 2021, arXiv 2104.03310) with averages already updated by this batch.

    One-sided, as released: real logits above the average fake one, and fake ones below the average real one, are
    drawn towards it.
    """
    averages = jax.lax.stop_gradient(averages)
    above = jax.nn.relu(real.astype(jnp.float32) - averages["fake"])
    below = jax.nn.relu(averages["real"] - fake.astype(jnp.float32))
    return jnp.mean(jnp.square(above)) + jnp.mean(jnp.square(below))
