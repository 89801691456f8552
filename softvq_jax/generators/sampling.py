"""Random keys of samples. All randomness of an example comes from one key, which depends only on its index."""

from functools import partial

import jax
import jax.numpy as jnp


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns a key for each example `[B]`, given the set's key and the examples' global indices."""
    return jax.vmap(partial(jax.random.fold_in, key))(indices)


def split_keys(keys: jax.Array, count: int) -> jax.Array:
    """Splits keys `[B]` into keys `[count, B]`."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, count))(keys), 1, 0)


def fold_in(keys: jax.Array, number: jax.Array) -> jax.Array:
    """Folds `number` into each of the keys `[B]`."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
