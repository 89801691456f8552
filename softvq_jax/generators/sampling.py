"""Random keys of samples. All randomness of an example comes from one key, which depends on its index alone."""

from functools import partial

import jax
import jax.numpy as jnp


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """One key per example `[B]`, a function of the set's key and the example's global index."""
    return jax.vmap(partial(jax.random.fold_in, key))(indices)


def split_keys(keys: jax.Array, count: int) -> jax.Array:
    """`[count, B]` keys from `[B]`."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, count))(keys), 1, 0)


def fold_in(keys: jax.Array, number: jax.Array) -> jax.Array:
    """The keys `[B]`, each with `number` folded in."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
