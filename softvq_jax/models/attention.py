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


# Logits are transposed, `[keys, queries]`, and so are results where no matrix of the logits' size then has to be transposed
# for the product: such products take 1.6 times as long. The loop cuts each group of heads out of `qkv` and puts it into the
# result, because arrays of all heads, transposed before and after the loop, took another tenth of the time.


def _group_sizes(batch: int, num_heads: int, length: int) -> tuple[int, int]:
    """Images and heads of a group, divisors of `batch` and `num_heads` with at most `CACHED_LOGITS` logits, at least 1."""
    limit = CACHED_LOGITS // length**2
    heads = _divisor(num_heads, limit)
    return (_divisor(batch, limit // num_heads) if heads == num_heads else 1), heads


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, at least 1."""
    return max(size for size in range(1, max(1, min(limit, number)) + 1) if number % size == 0)


def _for_groups(body, batch, num_heads, length, carry):
    """Runs `carry = body(read, write, carry)` for each group of heads.

    `read(array, axis)` returns the heads of the group, `[images, heads, ...]`, of an array `[batch, ...]` with the heads on
    `axis`, and `write(array, part, axis)` the array with this part replaced.
    """
    images, heads = _group_sizes(batch, num_heads, length)
    columns = num_heads // heads

    def step(index, carry):
        def start(array, axis):
            first = [0] * array.ndim
            first[0], first[axis] = index // columns * images, index % columns * heads
            return first

        def read(array, axis):
            sizes = [images, *array.shape[1:]]
            sizes[axis] = heads
            return jnp.moveaxis(jax.lax.dynamic_slice(array, start(array, axis), sizes), axis, 1)

        def write(array, part, axis):
            part = jnp.moveaxis(part, 1, axis).astype(array.dtype)
            return jax.lax.dynamic_update_slice(array, part, start(array, axis))

        return body(read, write, carry)

    return jax.lax.fori_loop(0, batch // images * columns, step, carry)


def _cpu_forward(qkv, num_heads):
    batch, length, channels = qkv.shape
    parts = qkv.reshape(batch, length, 3, num_heads, channels // 3 // num_heads)

    def group(read, write, carry):
        out, log_sums = carry
        q, k, v = jnp.moveaxis(read(parts, 3), 3, 0)
        logits = _product("bhkd,bhqd->bhkq", k, q * q.shape[-1] ** -0.5)
        largest = jnp.max(logits, axis=-2, keepdims=True)
        weights = jnp.exp(logits - largest)
        sums = jnp.sum(weights, axis=-2, keepdims=True)
        result = _product("bhkd,bhkq->bhdq", v, weights.astype(v.dtype)) / sums
        log_sums = write(log_sums, (largest + jnp.log(sums))[:, :, 0], 1)
        return write(out, result.swapaxes(2, 3), 2), log_sums

    # The results start as parts of the input: in `shard_map`, they must vary over the same mesh axes.
    log_sums = jnp.broadcast_to(qkv[:, None, :, 0].astype(jnp.float32), (batch, num_heads, length))
    out, log_sums = _for_groups(group, batch, num_heads, length, (parts[:, :, 0], log_sums))
    return out.reshape(batch, length, -1), log_sums


def _cpu_backward(qkv, out, log_sums, cotangent, num_heads):
    """Five products for each group of heads (FlashAttention, arXiv 2205.14135, algorithm 4).

    The gradients of a group replace its queries, keys and values. `mean` comes from the result: a sum of the products of
    two logit-sized arrays took a third more CPU time in all.
    """
    batch, length, channels = qkv.shape
    head = channels // 3 // num_heads
    out, cotangent = (array.reshape(batch, length, num_heads, head) for array in (out, cotangent))
    means = jnp.sum(out.astype(jnp.float32) * cotangent, axis=-1)

    def group(read, write, parts):
        q, k, v = jnp.moveaxis(read(parts, 3), 3, 0)
        of_result = read(cotangent, 2)
        q = q * head**-0.5
        weights = jnp.exp(_product("bhkd,bhqd->bhkq", k, q) - read(log_sums, 1)[:, :, None])
        d_weights = _product("bhkd,bhqd->bhkq", v, of_result)
        d_logits = (weights * (d_weights - read(means, 2)[:, :, None])).astype(q.dtype)
        dv = _product("bhkq,bhqd->bhkd", weights.astype(v.dtype), of_result)
        dk = _product("bhkq,bhqd->bhkd", d_logits, q)
        dq = _product("bhkd,bhkq->bhdq", k, d_logits).swapaxes(2, 3) * head**-0.5
        return write(parts, jnp.stack([dq, dk, dv], axis=3), 3)

    parts = qkv.reshape(batch, length, 3, num_heads, head)
    return _for_groups(group, batch, num_heads, length, parts).reshape(qkv.shape)
