"""Classifier-free guidance (Ho and Salimans, 2022): dropping labels in training, combining predictions in sampling."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from softvq_jax.parallel import batch_random

ModelFn = Callable[[jax.Array, jax.Array], jax.Array]


def drop_labels(labels: jax.Array, num_classes: int, rate: float, key: jax.Array) -> jax.Array:
    """Replaces each label in `labels` `[B]` by `num_classes`, which means no class, with probability `rate`."""
    return jnp.where(batch_random.bernoulli(key, rate, labels.shape), num_classes, labels)


def guided(pair_fn: ModelFn, scale: float | jax.Array, channels: int) -> ModelFn:
    """Returns the network with guidance, `u + scale (c - u)`, as a function of `(x, t)`.

    Args:
      pair_fn: the network on a doubled batch, `x` `[2B, ..., D]` and `t` `[2B]`, conditional (`c`) on the first half and
        unconditional (`u`) on the second. One call for both keeps the matmuls large.
      scale: 1 is no guidance.
      channels: number of output channels that are guided; the others (variances) are the conditional ones.
    """

    def fn(x: jax.Array, t: jax.Array) -> jax.Array:
        output = pair_fn(jnp.concatenate([x, x]), jnp.concatenate([t, t]))
        conditional, unconditional = jnp.split(output, 2)
        c, rest = jnp.split(conditional, [channels], axis=-1)
        u = unconditional[..., :channels]
        return jnp.concatenate([u + scale * (c - u), rest], axis=-1)

    return fn
