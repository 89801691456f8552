"""Masks and orders of masked autoregressive generation (MAR, arXiv 2406.11838), in training and in sampling."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.diffusion import states
from softvq_jax.parallel import batch_random

MASKED_SHARE_STD = 0.25
LEAST_MASKED_SHARE = 0.7

PredictFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def max_visible(num_tokens: int) -> int:
    """Returns the largest number of tokens that a training mask leaves visible."""
    return num_tokens - math.ceil(LEAST_MASKED_SHARE * num_tokens)


def random_orders(keys: jax.Array, num_tokens: int) -> jax.Array:
    """Returns a random order of the tokens for each key, `[B, L]`; sampling fills tokens from the last to the first."""
    return jax.vmap(lambda key: jax.random.permutation(key, num_tokens))(keys)


def mask_first(orders: jax.Array, count: int | jax.Array) -> jax.Array:
    """Returns a mask `[B, L]`, True for the first `count` tokens of each order."""
    return jnp.argsort(orders, axis=1) < count


def draw_mask(
    batch: int, num_tokens: int, key: jax.Array, *, least: float = LEAST_MASKED_SHARE, most: float = 1.0
) -> jax.Array:
    """Draws a training mask `[B, L]` (MAR, section 4.1).

    The share of masked tokens is drawn once for the batch, from a normal distribution with mean `most` and standard
    deviation 0.25, truncated to [least, most]. The masked tokens are drawn for each example. MAR's shares are in [0.7, 1],
    MAETok's in [0.4, 0.6].
    """
    share_key, order_key = jax.random.split(key)
    return mask_share(batch, num_tokens, draw_share(share_key, least, most), order_key)


def draw_share(key: jax.Array, least: float, most: float) -> jax.Array:
    """Draws a share of masked tokens: normal, mean `most`, standard deviation 0.25, truncated to [least, most]."""
    lowest = (least - most) / MASKED_SHARE_STD
    return most + MASKED_SHARE_STD * jax.random.truncated_normal(key, lowest, 0.0)


def mask_share(batch: int, num_tokens: int, share: float | jax.Array, key: jax.Array) -> jax.Array:
    """Masks `ceil(num_tokens * share)` tokens of each example at random, `[B, L]`; `share` is in [0, 1]."""
    orders = random_orders(batch_random.split(key, batch), num_tokens)
    return mask_first(orders, jnp.ceil(num_tokens * share))


def masked_counts(num_tokens: int, iterations: int) -> np.ndarray:
    """Returns the number of masked tokens before each iteration, and 0 after the last, `[iterations + 1]`.

    It follows MaskGIT's cosine schedule (Chang et al., 2022), but each iteration fills at least one token.

    Raises:
      ValueError: `iterations` is below 1 or above `num_tokens`.
    """
    if not 1 <= iterations <= num_tokens:
        raise ValueError(f"{iterations} iterations for {num_tokens} tokens; expected 1 to {num_tokens}")
    counts = [num_tokens]
    for done in range(1, iterations):
        scheduled = math.floor(num_tokens * math.cos(math.pi / 2 * done / iterations))
        counts.append(max(1, min(counts[-1] - 1, scheduled)))
    return np.array([*counts, 0])


def guidance_ramp(scale: float | jax.Array, still_masked: np.ndarray, num_tokens: int) -> jax.Array:
    """Returns each iteration's guidance scale, which rises from 1 to `scale` with the share of tokens filled after it."""
    return 1 + (scale - 1) * jnp.asarray((num_tokens - still_masked) / num_tokens, jnp.float32)


def fill_tokens(
    predict_fn: PredictFn, orders: jax.Array, channels: int, iterations: int, guidance: float | jax.Array
) -> jax.Array:
    """Samples all tokens of a batch, `[B, L, D]`, a few in each iteration (MAR, section 3.4), in one compiled loop.

    Shapes must not depend on the iteration. So each iteration predicts `k` tokens, the most that any iteration fills, and
    drops the surplus.

    Args:
      predict_fn: `(latents [B, L, D], masked [B, L], positions [B, k], guidance, number) -> [B, k, D]`, which samples the
        tokens at `positions` given the unmasked ones; `number` is the index of the iteration.
      orders: `[B, L]`, see `random_orders`.
      guidance: guidance scale at the end of the ramp.
    """
    batch, num_tokens = orders.shape
    counts = masked_counts(num_tokens, iterations)
    most = int(np.max(counts[:-1] - counts[1:]))
    examples = jnp.arange(batch)[:, None]

    def fill(latents, step):
        slots = step["masked_after"] + jnp.arange(most)
        positions = orders[:, jnp.minimum(slots, num_tokens - 1)]
        masked = mask_first(orders, step["masked"])
        tokens = predict_fn(latents, masked, positions, step["guidance"], step["number"])
        positions = jnp.where(slots < step["masked"], positions, num_tokens)  # out of range: dropped
        return latents.at[examples, positions].set(tokens, mode="drop")

    steps = {
        "masked": jnp.asarray(counts[:-1], jnp.int32),
        "masked_after": jnp.asarray(counts[1:], jnp.int32),
        "guidance": guidance_ramp(guidance, counts[1:], num_tokens),
        "number": jnp.arange(iterations),
    }
    return states.scan(fill, jnp.zeros((batch, num_tokens, channels)), steps)
