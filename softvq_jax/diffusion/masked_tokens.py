"""Masked generation of discrete tokens (MaskGIT, arXiv 2202.04200), as released with TiTok: training and sampling."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.diffusion import masking
from softvq_jax.parallel import batch_random

# (tokens [B, L], step index) -> logits [B, L, K], with guidance if it is on
LogitsFn = Callable[[jax.Array, jax.Array], jax.Array]
# step index -> uniform draws in [0, 1) for the codes, [B, L, K], and for the confidence, [B, L]
UniformFn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

GUIDANCE_SCHEDULES = ("linear", "power-cosine", "constant")
_GUIDANCE_POWER = 3.0  # exponent of the schedule "power-cosine"
_FLOOR = 1e-20  # lower bound of the arguments of both logarithms in a Gumbel draw


def draw_masks(batch: int, num_tokens: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws training masks, True for a share `arccos(u) / (pi / 2)` of each example's tokens, `u` uniform in [0, 1).

    Returns:
      The masks `[B, L]`, and those of the whole batch: more where the batch is computed in pieces of `batch` examples.
    """
    share_key, order_key = jax.random.split(key)
    with batch_random.whole_batch() as parts:
        counts = masked_count(batch_random.uniform(share_key, (batch * parts, 1)), num_tokens)
        orders = masking.random_orders(batch_random.split(order_key, batch * parts), num_tokens)
    whole = masking.mask_first(orders, counts)
    return batch_random.of_piece(whole), whole


def masked_count(u: jax.Array, num_tokens: int) -> jax.Array:
    """Returns the number of tokens that a training mask hides, at least one, given a draw `u` in [0, 1)."""
    return jnp.maximum(1.0, jnp.round(num_tokens * jnp.arccos(u) / (math.pi / 2)))


def cross_entropy(logits: jax.Array, targets: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Returns the cross-entropy `[B, L]` of `logits` `[B, L, K]`, with label smoothing (Szegedy et al., 2016).

    The target distribution is `1 - smoothing` at the target plus `smoothing / K` everywhere.
    """
    log_p = jax.nn.log_softmax(logits)
    at_target = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * at_target - smoothing * jnp.mean(log_p, axis=-1)


def loss_weights(mask: jax.Array, unmasked_weight: float) -> jax.Array:
    """Returns weights `[B, L]` of tokens in the training loss: 1 if masked, else `unmasked_weight` (0.1 in the release)."""
    return jnp.where(mask, 1.0, unmasked_weight)


def pooled_mean(values: jax.Array, weights: jax.Array, whole: jax.Array) -> jax.Array:
    """Reduces `[B, L]` to `[B]` such that the mean over the batch is the weighted mean over all tokens of the batch.

    Args:
      values, weights: `[B, L]`.
      whole: the weights of the whole batch; the examples can be all of it or a piece.
    """
    return jnp.sum(values * weights.astype(jnp.float32), axis=1) / jnp.mean(jnp.sum(whole.astype(jnp.float32), axis=1))


def masked_after_steps(num_tokens: int, steps: int) -> np.ndarray:
    """Returns the number of masked tokens after each step, `[steps]`, by the arccos schedule; it is 0 after the last.

    Raises:
      ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    counts = [num_tokens]
    for step in range(1, steps):
        scheduled = math.floor(num_tokens * math.acos(step / steps) / (math.pi / 2))
        counts.append(max(1, min(counts[-1] - 1, scheduled)))
    return np.array([*counts[1:], 0])


def guidance_weights(schedule: str, scale: float | jax.Array, steps: int) -> jax.Array:
    """Returns the weight `w` of each step in the guided logits `cond + w (cond - uncond)`, `[steps]`.

    "linear" is `scale * step / steps`, with steps counted from 0; "constant" is `scale`; "power-cosine" grows from 0 to
    almost `scale - 1`, `(scale - 1) (1 - cos(pi (step / steps)^3)) / 2` (MDT, arXiv 2303.14389).

    Raises:
      ValueError: the schedule is unknown.
    """
    if schedule not in GUIDANCE_SCHEDULES:
        raise ValueError(f"guidance schedule is {schedule!r}; expected one of {', '.join(GUIDANCE_SCHEDULES)}")
    progress = np.arange(steps) / steps
    if schedule == "power-cosine":
        return (scale - 1) * jnp.asarray((1 - np.cos(np.pi * progress**_GUIDANCE_POWER)) / 2, jnp.float32)
    return scale * jnp.asarray(progress if schedule == "linear" else np.ones(steps), jnp.float32)


def uniform_from_keys(keys: jax.Array, num_tokens: int, codebook_size: int) -> UniformFn:
    """Returns a `UniformFn` with one key per example, `keys` `[B]`, independent of the rest of the batch."""

    def of_example(key, step):
        code_key, confidence_key = jax.random.split(jax.random.fold_in(key, step))
        return (
            jax.random.uniform(code_key, (num_tokens, codebook_size)),
            jax.random.uniform(confidence_key, (num_tokens,)),
        )

    return lambda step: jax.vmap(of_example, in_axes=(0, None))(keys, step)


def sample_tokens(
    logits_fn: LogitsFn,
    uniform_fn: UniformFn,
    shape: tuple[int, int],
    *,
    mask_token: int,
    steps: int,
    temperature: float | jax.Array,
    anneal_softmax: bool = False,
) -> jax.Array:
    """Samples codes `[B, L]` int32; all are masked at first, and each step fills some, in one compiled loop.

    Every step draws all masked codes with Gumbel noise, then masks those with the least confidence again. The confidence
    is a code's logit (in the release; its log-probability in MaskGIT) plus noise, which falls to 0 over the steps.

    Args:
      logits_fn: returns the logits of all positions.
      uniform_fn: returns the random draws of a step.
      shape: `(B, L)`.
      mask_token: index that represents a masked code.
      steps: number of steps.
      temperature: scale of the confidence's noise in the first step, divided by `1 - 1/steps`.
      anneal_softmax: whether to divide the logits by `0.5 + 0.8 (1 - ratio)`, where `ratio` is the share of steps done
        after this one.

    Raises:
      ValueError: `steps` is below 1.
    """
    left = masked_after_steps(shape[1], steps)
    remaining = 1 - (np.arange(steps) + 1) / steps

    def fill(tokens, step):
        masked = tokens == mask_token
        logits = logits_fn(tokens, step["number"])
        if anneal_softmax:
            logits = logits / step["softmax_temperature"]
        code_draws, confidence_draws = uniform_fn(step["number"])
        temperature_now = temperature * step["remaining"]
        drawn = jnp.argmax(logits + temperature_now * gumbel(code_draws), axis=-1).astype(jnp.int32)
        confidence = jnp.take_along_axis(logits, drawn[..., None], axis=-1)[..., 0]
        confidence = jnp.where(masked, confidence, jnp.inf) + temperature_now * gumbel(confidence_draws)
        masked_again = masking.mask_first(jnp.argsort(confidence, axis=1), step["left"])
        return jnp.where(masked_again, mask_token, jnp.where(masked, drawn, tokens)), None

    inputs = {
        "number": jnp.arange(steps),
        "left": jnp.asarray(left, jnp.int32),
        "remaining": jnp.asarray(remaining, jnp.float32),
        "softmax_temperature": jnp.asarray(0.5 + 0.8 * remaining, jnp.float32),
    }
    return jax.lax.scan(fill, jnp.full(shape, mask_token, jnp.int32), inputs)[0]


def gumbel(u: jax.Array) -> jax.Array:
    """Converts uniform draws to Gumbel noise, `-log(-log(u))`, finite for 0 and 1."""
    return -jnp.log(jnp.maximum(-jnp.log(jnp.maximum(u, _FLOOR)), _FLOOR))
