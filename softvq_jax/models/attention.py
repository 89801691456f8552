"""Scaled dot-product attention, with one implementation per platform."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Computes softmax attention of all queries over all keys; logits and softmax are float32.

    The backward pass recomputes the attention probabilities. For 321 tokens, this costs 2 % of a block's arithmetic and
    saves its largest activation, `[B, H, N, N]`.

    Args:
      q, k, v: `[B, N, H, d]`.

    Returns:
      `[B, N, H, d]` of the dtype of `v`.
    """
    return _attention(q, k, v)


def _all_heads(q, k, v):
    """Computes all heads in one batched matmul, which is fastest on TPUs and GPUs."""
    return jax.nn.dot_product_attention(q, k, v)


def _head_by_head(q, k, v):
    """Computes one head at a time, so that its `[B, N, N]` logits stay in cache; more than twice as fast on CPUs."""
    scale = q.shape[-1] ** -0.5

    def one_head(_, qkv):
        q, k, v = qkv
        logits = jnp.einsum("bqd,bkd->bqk", q, k, preferred_element_type=jnp.float32) * scale
        weights = jax.nn.softmax(logits).astype(v.dtype)
        return None, jnp.einsum("bqk,bkd->bqd", weights, v)

    heads_first = tuple(x.transpose(2, 0, 1, 3) for x in (q, k, v))
    return jax.lax.scan(one_head, None, heads_first)[1].transpose(1, 2, 0, 3)


@jax.checkpoint
def _attention(q, k, v):
    # The platform that the program is compiled for decides. Ahead of time, that is not the platform of this process.
    return jax.lax.platform_dependent(q, k, v, cpu=_head_by_head, default=_all_heads)
