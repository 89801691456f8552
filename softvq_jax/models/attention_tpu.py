"""Self-attention as Pallas kernels for TPUs, which keep the logits on the chip.

`jax.experimental.pallas.ops.tpu` has kernels for sequences of any length. Ours have about a thousand tokens at most, so
that a head's keys and values fit in vector memory. Hence there is no running softmax and no padding. The kernels read
queries, keys and values where the projection wrote them, without a transpose, and the backward pass needs no other arrays.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
QUERY_ROWS = 256  # queries whose logits are in vector memory at the same time

_CONTRACT_INNER = (((1,), (0,)), ((), ()))
_CONTRACT_LAST = (((1,), (1,)), ((), ()))
_CONTRACT_FIRST = (((0,), (0,)), ((), ()))


def supports(width: int, num_heads: int) -> bool:
    """Whether blocks of 128 channels, or of one wider head, divide `width` into whole heads."""
    head = width // num_heads
    return width % LANES == 0 and (LANES % head == 0 or head % LANES == 0)


def forward(qkv: jax.Array, num_heads: int, *, interpret: bool = False) -> jax.Array:
    """Returns attention `[B, N, width]` for queries, keys and values of all heads, `[B, N, 3 width]`."""
    batch, length, channels = qkv.shape
    shape = _Shape(batch, length, channels // 3, num_heads)
    return pl.pallas_call(
        functools.partial(_forward_kernel, head=shape.head),
        grid=(batch, shape.blocks),
        in_specs=shape.qkv_specs,
        out_specs=shape.spec,
        out_shape=jax.ShapeDtypeStruct((batch, length, shape.width), qkv.dtype),
        compiler_params=_compiler_params("parallel", "parallel"),
        cost_estimate=shape.cost(qkv.dtype, products=2, arrays=4),
        interpret=interpret,
    )(qkv, qkv, qkv)


def backward(qkv: jax.Array, cotangent: jax.Array, num_heads: int, *, interpret: bool = False) -> jax.Array:
    """Returns the cotangent of `qkv`, given that of the result of `forward`."""
    batch, length, channels = qkv.shape
    shape = _Shape(batch, length, channels // 3, num_heads)
    # The last axis of the grid writes the three parts of one result; the first of its steps computes them.
    out_spec = pl.BlockSpec(
        (1, length, shape.block), lambda image, block, part: (image, 0, part * shape.blocks + block)
    )
    return pl.pallas_call(
        functools.partial(_backward_kernel, head=shape.head),
        grid=(batch, shape.blocks, 3),
        in_specs=[*shape.qkv_specs, shape.spec],
        out_specs=out_spec,
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        scratch_shapes=[pltpu.VMEM((length, shape.block), qkv.dtype)] * 2,
        compiler_params=_compiler_params("parallel", "parallel", "arbitrary"),
        cost_estimate=shape.cost(qkv.dtype, products=5, arrays=7),
        interpret=interpret,
    )(qkv, qkv, qkv, cotangent)


class _Shape:
    """Sizes of a call, and its blocks: all tokens of one image, and 128 channels or one wider head."""

    def __init__(self, batch: int, length: int, width: int, num_heads: int):
        self.batch, self.length, self.width, self.head = batch, length, width, width // num_heads
        self.block = max(self.head, LANES)
        self.blocks = width // self.block
        size = (1, length, self.block)
        self.spec = pl.BlockSpec(size, lambda image, block, *_: (image, 0, block))
        self.qkv_specs = [
            pl.BlockSpec(size, lambda image, block, *_, part=part: (image, 0, part * self.blocks + block))
            for part in range(3)
        ]

    def cost(self, dtype, *, products: int, arrays: int) -> pl.CostEstimate:
        """Returns the cost of `products` matrix products per head, reading and writing `arrays` arrays `[B, N, width]`."""
        return pl.CostEstimate(
            flops=2 * products * self.batch * self.length**2 * self.width,
            transcendentals=self.batch * self.length**2 * (self.width // self.head),
            bytes_accessed=arrays * self.batch * self.length * self.width * dtype.itemsize,
        )


def _compiler_params(*semantics: Literal["parallel", "arbitrary"]):
    return pltpu.CompilerParams(dimension_semantics=semantics)


def _heads(block: int, head: int) -> list[slice]:
    return [slice(start, start + head) for start in range(0, block, head)]


def _query_rows(length: int) -> list[slice]:
    return [slice(start, min(start + QUERY_ROWS, length)) for start in range(0, length, QUERY_ROWS)]


def _dot(a, b, contract=_CONTRACT_INNER):
    return jax.lax.dot_general(a, b, contract, preferred_element_type=jnp.float32)


def _softmax(q, k):
    logits = _dot(q, k, _CONTRACT_LAST) * q.shape[-1] ** -0.5
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, *, head):
    _, length, block = q_ref.shape
    for channels in _heads(block, head):
        k, v = k_ref[0, :, channels], v_ref[0, :, channels]
        for rows in _query_rows(length):
            weights = _softmax(q_ref[0, rows, channels], k)
            out_ref[0, rows, channels] = _dot(weights.astype(v.dtype), v).astype(out_ref.dtype)


def _backward_kernel(q_ref, k_ref, v_ref, cotangent_ref, out_ref, dk_ref, dv_ref, *, head):
    _, length, block = q_ref.shape
    part = pl.program_id(2)

    @pl.when(part == 0)
    def _():
        for channels in _heads(block, head):
            k, v = k_ref[0, :, channels], v_ref[0, :, channels]
            dk, dv = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
            for rows in _query_rows(length):
                q, cotangent = q_ref[0, rows, channels], cotangent_ref[0, rows, channels]
                weights, d_weights = _softmax(q, k), _dot(cotangent, v, _CONTRACT_LAST)
                mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
                d_logits = (weights * (d_weights - mean) * head**-0.5).astype(q.dtype)
                out_ref[0, rows, channels] = _dot(d_logits, k).astype(out_ref.dtype)
                dk += _dot(d_logits, q, _CONTRACT_FIRST)
                dv += _dot(weights.astype(v.dtype), cotangent, _CONTRACT_FIRST)
            dk_ref[:, channels], dv_ref[:, channels] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)

    @pl.when(part == 1)
    def _():
        out_ref[0] = dk_ref[...]

    @pl.when(part == 2)
    def _():
        out_ref[0] = dv_ref[...]
