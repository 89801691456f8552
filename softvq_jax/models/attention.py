"""Multi-head self-attention, with one implementation per platform.

| platform | implementation |
|---|---|
| CPU | a few heads at a time, so that their logits stay in cache; the log-sum-exp is saved for the backward pass |
| GPU | cuDNN's fused kernel for bfloat16 and float16 where a CUDA device is present, else XLA |
| TPU | from `PALLAS_LENGTH` tokens on a Pallas kernel, which keeps the logits on the chip; below, XLA |

The platform is that of the lowering, not that of the tracing process: in ahead-of-time compilation they differ.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from softvq_jax.parallel.mesh import AXES

# The backward pass of attention for 16 images a chip on v5e, by the compiler's plan: with 321 tokens and 16 heads XLA moves
# 996 MiB of main memory and the kernel 150; with 197 tokens and 6 heads, which fit on the chip, 16 and 32. The step of
# L-64 on v5e:16x16 moves 0.70 of the bytes that it moves with XLA's attention.
PALLAS_LENGTH = 320  # tokens from which the Pallas kernel is used on TPUs
CACHED_LOGITS = 2**17  # logits that the CPU works on at a time: what a core's cache holds


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attention(qkv: jax.Array, num_heads: int) -> jax.Array:
    """Softmax attention of every query over every key; logits and softmax in float32.

    The backward pass recomputes the attention probabilities: for 321 tokens that costs 2 % of a block's arithmetic and
    saves its largest activation, `[B, H, N, N]`. Gradients are reverse-mode only.

    Args:
      qkv: `[B, N, 3 width]`: the queries of all heads, then the keys, then the values.
      num_heads: `H`, a divisor of `width`.

    Returns:
      `[B, N, width]` of the dtype of `qkv`.
    """
    return _forward(qkv, num_heads)[0]


def _forward(qkv, num_heads):
    """The result, and the log-sum-exp of the logits `[B, H, N]` on CPUs (elsewhere 0 and unused, so never stored)."""
    batch, length, _ = qkv.shape

    def without_statistics(implementation, qkv):
        # Zeros made from the input: in `shard_map`, the results of all branches must vary over the same mesh axes.
        zeros = jnp.where(qkv[:, None, :, 0] == 0, jnp.float32(0), jnp.float32(0))
        return implementation(qkv, num_heads), jnp.broadcast_to(zeros, (batch, num_heads, length))

    branches = {
        platform: functools.partial(without_statistics, implementation)
        for platform, (implementation, _) in implementations(qkv, num_heads).items()
    }
    return jax.lax.platform_dependent(qkv, cpu=functools.partial(_cpu_forward, num_heads=num_heads), **branches)


def _forward_rule(qkv, num_heads):
    out, log_sums = _forward(qkv, num_heads)
    return out, (qkv, out, log_sums)


def _backward_rule(num_heads, residuals, cotangent):
    branches = {
        platform: lambda qkv, out, log_sums, cotangent, backward=backward: backward(qkv, cotangent, num_heads)
        for platform, (_, backward) in implementations(residuals[0], num_heads).items()
    }
    cpu = functools.partial(_cpu_backward, num_heads=num_heads)
    return (jax.lax.platform_dependent(*residuals, cotangent, cpu=cpu, **branches),)


attention.defvjp(_forward_rule, _backward_rule)


def implementations(qkv: jax.Array, num_heads: int) -> dict[str, tuple[Callable, Callable]]:
    """Forward and backward passes by platform, for all but the CPU; "default" is XLA's own.

    cuDNN is left out without a CUDA device: tracing it already fails there.
    """
    width = qkv.shape[-1] // 3
    found: dict[str, tuple[Callable, Callable]] = {"default": (_xla_forward, _xla_backward)}
    if qkv.dtype in (jnp.bfloat16, jnp.float16) and _cudnn_takes(width // num_heads):
        found["cuda"] = (_cudnn_forward, _cudnn_backward)
    devices = max(1, jax.sharding.get_abstract_mesh().size)  # 0 without a mesh
    if qkv.shape[1] >= PALLAS_LENGTH and qkv.shape[0] % devices == 0:
        from softvq_jax.models import attention_tpu  # here, because most programs do not need Pallas

        if not attention_tpu.supports(width, num_heads):
            return found
        found["tpu"] = (_sharded(attention_tpu.forward), _sharded(attention_tpu.backward))
    return found


def split_heads(qkv: jax.Array, num_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of each head, each `[B, N, H, d]`."""
    batch, length, channels = qkv.shape
    heads = qkv.reshape(batch, length, 3, num_heads, channels // 3 // num_heads)
    return heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]


# --- XLA and cuDNN ---------------------------------------------------------------------------------------------------


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _xla_forward(qkv, num_heads):
    """All heads in one batched product."""
    return jax.nn.dot_product_attention(*split_heads(qkv, num_heads)).reshape(*qkv.shape[:2], -1)


def _xla_backward(qkv, cotangent, num_heads):
    """Five products; the probabilities are computed again."""
    q, k, v = split_heads(qkv, num_heads)
    scale = q.shape[-1] ** -0.5
    cotangent = cotangent.reshape(q.shape)
    weights = jax.nn.softmax(_product("bqhd,bkhd->bhqk", q, k) * scale)
    d_weights = _product("bqhd,bkhd->bhqk", cotangent, v)
    mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
    d_logits = (weights * (d_weights - mean) * scale).astype(q.dtype)
    gradients = (
        jnp.einsum("bhqk,bkhd->bqhd", d_logits, k),
        jnp.einsum("bhqk,bqhd->bkhd", d_logits, q),
        jnp.einsum("bhqk,bqhd->bkhd", weights.astype(v.dtype), cotangent),
    )
    return jnp.stack(gradients, axis=2).reshape(qkv.shape)


def _cudnn_forward(qkv, num_heads):
    """An odd number of tokens, for which jax refuses gradients, gets one more that no query attends to."""
    batch, length, _ = qkv.shape
    odd = length % 2
    heads = split_heads(jnp.pad(qkv, ((0, 0), (0, odd), (0, 0))), num_heads)
    lengths = jnp.full((batch,), length, jnp.int32) if odd else None
    out = jax.nn.dot_product_attention(*heads, key_value_seq_lengths=lengths, implementation="cudnn")
    return out[:, :length].reshape(batch, length, -1)


def _cudnn_backward(qkv, cotangent, num_heads):
    """Computes the forward pass again: jax's public functions do not give its statistics in float32."""
    return jax.vjp(lambda qkv: _cudnn_forward(qkv, num_heads), qkv)[1](cotangent)[0]


def _cudnn_takes(head: int) -> bool:
    """Whether the CUDA devices of this process, if any, have a fused kernel for heads of this width."""
    capabilities = _cuda_capabilities()
    return bool(capabilities) and min(capabilities) >= 8.0 and head % 8 == 0 and head <= 128


def _cuda_capabilities() -> list[float]:
    """Compute capabilities of the CUDA devices of this process."""
    try:
        return [float(device.compute_capability) for device in jax.local_devices(backend="cuda")]
    except RuntimeError:  # no such backend
        return []


# --- Pallas ----------------------------------------------------------------------------------------------------------


def _sharded(function):
    """Runs a kernel on every device's own images; the partitioner cannot split a kernel."""

    def run(*arrays_and_heads):
        *arrays, num_heads = arrays_and_heads
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return function(*arrays, num_heads)
        return jax.shard_map(
            lambda *arrays: function(*arrays, num_heads),
            in_specs=PartitionSpec(AXES),
            out_specs=PartitionSpec(AXES),
            check_vma=False,
        )(*arrays)

    return run


# --- CPU -------------------------------------------------------------------------------------------------------------


def _heads_in_groups(array, num_heads):
    """`[B, N, H d] -> [groups, B H / groups, N, d]`, with few enough heads in a group for their logits to stay in cache."""
    batch, length, width = array.shape
    count = _group_size(batch * num_heads, length)
    heads = array.reshape(batch, length, num_heads, -1).swapaxes(1, 2)
    return heads.reshape(-1, count, length, width // num_heads)


def _group_size(heads: int, length: int) -> int:
    """The largest divisor of `heads` with at most `CACHED_LOGITS` logits, at least 1."""
    limit = max(1, CACHED_LOGITS // length**2)
    return max(size for size in range(1, min(limit, heads) + 1) if heads % size == 0)


def _images(groups, batch):
    """The inverse of `_heads_in_groups`."""
    length, head = groups.shape[-2:]
    return groups.reshape(batch, -1, length, head).swapaxes(1, 2).reshape(batch, length, -1)


def _cpu_forward(qkv, num_heads):
    def group(_, heads):
        q, k, v = heads
        logits = _product("gqd,gkd->gqk", q * q.shape[-1] ** -0.5, k)
        largest = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        sums = jnp.sum(weights, axis=-1, keepdims=True)
        out = _product("gqk,gkd->gqd", weights.astype(v.dtype), v) / sums
        return None, (out.astype(v.dtype), largest + jnp.log(sums))

    batch, length, _ = qkv.shape
    parts = tuple(_heads_in_groups(part, num_heads) for part in jnp.split(qkv, 3, axis=-1))
    out, log_sums = jax.lax.scan(group, None, parts)[1]
    return _images(out, batch), log_sums.reshape(batch, num_heads, length)


def _cpu_backward(qkv, out, log_sums, cotangent, num_heads):
    """Five products for each group of heads (FlashAttention, arXiv 2205.14135, algorithm 4).

    Logits are transposed, `[keys, queries]`: then one product has a transposed left side, and not two, which are slower.
    `mean` comes from the result: a sum of the products of two logit-sized arrays took a third more CPU time in all.
    """

    def group(_, heads):
        q, k, v, out, log_sums, cotangent = heads
        q = q * q.shape[-1] ** -0.5
        weights = jnp.exp(_product("gkd,gqd->gkq", k, q) - log_sums)
        mean = jnp.sum(out.astype(jnp.float32) * cotangent, axis=-1)[:, None]
        d_logits = (weights * (_product("gkd,gqd->gkq", v, cotangent) - mean)).astype(q.dtype)
        dv = _product("gkq,gqd->gkd", weights.astype(v.dtype), cotangent)
        dq = _product("gkq,gkd->gqd", d_logits, k) * q.shape[-1] ** -0.5
        dk = _product("gkq,gqd->gkd", d_logits, q)
        return None, tuple(gradient.astype(qkv.dtype) for gradient in (dq, dk, dv))

    arrays = (*jnp.split(qkv, 3, axis=-1), out, cotangent)
    q, k, v, out, cotangent = (_heads_in_groups(array, num_heads) for array in arrays)
    log_sums = log_sums.reshape(*q.shape[:2], 1, q.shape[2])
    gradients = jax.lax.scan(group, None, (q, k, v, out, log_sums, cotangent))[1]
    return jnp.concatenate([_images(gradient, len(qkv)) for gradient in gradients], axis=-1)
