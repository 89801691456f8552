"""Transformer building blocks, shared by all networks.

Blocks of equal shape are stacked (each parameter is `[depth, ...]`) and applied by one `jax.lax.scan`, so that neither
compile time nor the number of parameter names grows with depth. The residual stream is float32; `dtype` is the type of
the matmuls.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from softvq_jax.models.attention import attention, split_heads
from softvq_jax.models.rotary import fresh_frequencies, rotate
from softvq_jax.parallel import batch_random
from softvq_jax.parallel.mesh import constrain_batch

Module = TypeVar("Module", bound=nnx.Module)
LAYER_NORM_EPS = 1e-6
REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    # Results that cost much to compute and are small: the MLP's hidden channels are as many, and cost one product.
    "attention": jax.checkpoint_policies.save_only_these_names("queries_keys_values", "attended"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@jax.checkpoint
def gelu(x: jax.Array) -> jax.Array:
    """Computes `x Phi(x)` in float32. The backward pass recomputes intermediates from `x`.

    `jax.nn.gelu` keeps two more arrays of the MLP's hidden size, and its erfc, unlike erf, is not fused into the matmul
    that produces `x`: on a v5e, B-64's step moved 43 % more bytes.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": jax.checkpoint(partial(jax.nn.gelu, approximate=True)),
    "silu": jax.nn.silu,
}

FEW_TOKENS = 512  # with more, copying the parameters of blocks takes less than a tenth of an evaluation
MANY_STEPS = 100  # with fewer, compiling unstacked blocks takes longer than what they save
INIT_STD = 0.02  # standard deviation of kernels in ViTs


class Linear(nnx.Linear):
    """A linear map of the last axis. All other axes are flattened for one matmul, which is a tenth faster on CPUs.

    On a mesh, input and output are constrained to be sharded by images. If the kernel is sharded too, the partitioner
    then gathers the kernel instead of the tokens of all images, which are many times larger.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(constrain_batch(x).reshape(-1, x.shape[-1]))
        return constrain_batch(y.reshape(*x.shape[:-1], self.out_features))


def linear(in_features: int, out_features: int, *, use_bias: bool = True, dtype=None, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear map with the ViT initialization: truncated normal kernel, zero bias."""
    init = nnx.initializers.truncated_normal(stddev=INIT_STD)
    return Linear(in_features, out_features, use_bias=use_bias, dtype=dtype, kernel_init=init, rngs=rngs)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm that keeps only its input for the backward pass; nnx's keeps two more float32 arrays of that size."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.checkpoint(super().__call__)(x)


def layer_norm(width: int, *, affine: bool = True, eps: float = LAYER_NORM_EPS, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Returns a LayerNorm in float32; epsilon is 1e-6 by default, as in DINOv2 and DiT."""
    return LayerNorm(width, epsilon=eps, use_bias=affine, use_scale=affine, dtype=jnp.float32, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head self-attention, `[B, N, width] -> [B, N, width]`.

    `qk_norm` normalizes queries and keys. With a `rope_theta` they turn by mixed rotary positions, whose learned
    frequencies start from it; calls then take the tokens' `coordinates`, see `rotary.patch_coordinates`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        qk_norm: bool = False,
        qkv_bias: bool = True,
        rope_theta: float | None = None,
        dtype=None,
        rngs: nnx.Rngs,
    ):
        if width % num_heads:
            raise ValueError(f"width is {width}; expected a multiple of num_heads, {num_heads}")
        self.num_heads = num_heads
        self.qkv = linear(width, 3 * width, use_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.proj = linear(width, width, dtype=dtype, rngs=rngs)
        self.q_norm = layer_norm(width // num_heads, rngs=rngs) if qk_norm else None
        self.k_norm = layer_norm(width // num_heads, rngs=rngs) if qk_norm else None
        self.freqs = (
            nnx.Param(fresh_frequencies(num_heads, width // num_heads, rope_theta, rngs))
            if rope_theta is not None
            else None
        )

    def __call__(self, x: jax.Array, coordinates: jax.Array | None = None) -> jax.Array:
        qkv = checkpoint_name(self._queries_keys_values(x, coordinates), "queries_keys_values")
        return self.proj(checkpoint_name(attention(qkv, self.num_heads), "attended"))

    def probabilities(self, x: jax.Array, coordinates: jax.Array | None = None) -> jax.Array:
        """Returns the attention of each token (rows) to all tokens (columns), `[B, H, N, N]` float32; rows sum to 1."""
        q, k, _ = split_heads(self._queries_keys_values(x, coordinates), self.num_heads)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        return jax.nn.softmax(logits * q.shape[-1] ** -0.5)

    def _queries_keys_values(self, x, coordinates):
        qkv = self.qkv(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, v = split_heads(qkv, self.num_heads)
            q, k = self.q_norm(q).astype(v.dtype), self.k_norm(k).astype(v.dtype)
            qkv = jnp.stack([q, k, v], axis=2).reshape(qkv.shape)
        if self.freqs is not None:
            assert coordinates is not None, "rotary positions need the tokens' coordinates"
            q, k, v = split_heads(qkv, self.num_heads)
            q, k = (rotate(each, coordinates, self.freqs[...]) for each in (q, k))
            qkv = jnp.stack([q, k, v], axis=2).reshape(qkv.shape)
        return qkv


def check_hidden(width: int, mlp_ratio: float) -> None:
    """Raises ValueError if MLPs of this width and ratio have no hidden channels."""
    if int(mlp_ratio * width) < 1:
        raise ValueError(f"mlp_ratio is {mlp_ratio:g}; with width {width} it must be at least {1 / width:.3g}")


class MLP(nnx.Module):
    """`fc2(activation(fc1(x)))`, `activation` one of `ACTIVATIONS`."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu", *, dtype=None, rngs: nnx.Rngs):
        self.activation = activation
        self.fc1 = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _activated(ACTIVATIONS[self.activation], self.fc1(x), self.fc2)


def _activated(activation, hidden, linear):
    """`linear(activation(hidden))`; on CPUs, the backward pass computes the activation again from `hidden`.

    There the activation costs less than storing its result, a sixth of a block's activations. TPUs store it: computing it
    again would move more bytes, because only the product before the activation absorbs it.
    """

    def nothing(hidden):
        # Zeros made from the input: in `shard_map`, the results of all branches must vary over the same mesh axes.
        zero = jnp.zeros((), hidden.dtype)
        return jnp.where(hidden == 0, zero, zero)

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("activated"), prevent_cse=False)
    def apply(hidden):
        stored = checkpoint_name(jax.lax.platform_dependent(hidden, cpu=nothing, default=activation), "activated")
        activated = jax.lax.platform_dependent(
            hidden, stored, cpu=lambda hidden, _: activation(hidden), default=lambda _, stored: stored
        )
        return linear(activated)

    return apply(hidden)


class SwiGLU(nnx.Module):
    """`fc2(silu(a) * b)`, `[a, b] = fc1(x)`: the MLP of DINOv2-g; `hidden` is the width of `a`."""

    def __init__(self, width: int, hidden: int, *, dtype=None, rngs: nnx.Rngs):
        self.fc1 = linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, value = jnp.split(self.fc1(x), 2, axis=-1)
        return self.fc2(jax.nn.silu(gate) * value)


def drop(x: jax.Array, rate: float | jax.Array, key: jax.Array | None, *, per_sample: bool = False) -> jax.Array:
    """Dropout (Srivastava et al., 2014), or stochastic depth (Huang et al., 2016) with one draw per sample.

    Without a key, as in evaluation, it returns `x`.
    """
    if key is None:
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1) if per_sample else x.shape
    keep = 1.0 - rate
    return jnp.where(batch_random.bernoulli(key, keep, shape), x / keep, 0).astype(x.dtype)


def stack(make: Callable[[nnx.Rngs], Module], count: int, rngs: nnx.Rngs) -> Module:
    """Makes `count` independently initialized modules and stacks them into one with parameters `[count, ...]`."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs):
        return make(rngs)

    blocks = create(rngs)
    blocks.stack_size = count  # pyright: ignore (for `unstack`)
    return blocks


def unstack_for_loop(network: nnx.Module, num_tokens: int, steps: int) -> None:
    """Unstacks a network where this pays: on CPUs, before a loop of many steps on few tokens.

    On CPUs, a scan copies the parameters of each block before it computes with them. This takes up to two fifths of an
    evaluation of SiT-B on the tokens of one image. Unstacked blocks take memory for one more copy, and longer to compile.

    Args:
      network: the network that the loop calls.
      num_tokens: tokens of all images.
      steps: of the loop.
    """
    if jax.default_backend() == "cpu" and num_tokens <= FEW_TOKENS and steps >= MANY_STEPS:
        unstack(network)


def unstack(network: nnx.Module) -> None:
    """Replaces all stacked blocks in a network by lists of blocks."""
    for _, module in list(nnx.iter_modules(network)):
        for name, child in vars(module).copy().items():
            if isinstance(child, nnx.Module) and (count := getattr(child, "stack_size", 0)):
                graphdef, params = nnx.split(child)
                each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count)]
                setattr(module, name, nnx.List(nnx.merge(graphdef, params) for params in each))


def scan_blocks(
    blocks: nnx.Module | nnx.List,
    x: jax.Array,
    *shared,
    per_block=(),
    remat: str = "none",
) -> jax.Array:
    """Applies the stacked `blocks` in turn: `x = block(x, *shared, *per_block[i])`.

    Args:
      blocks: made by `stack`, or a list of blocks, as `unstack` makes.
      x: input of the first block.
      shared: further arguments that are the same for all blocks, such as a condition.
      per_block: tuple of trees with a leading axis of the stack's length, such as keys and rates.
      remat: activations kept for the backward pass: "none" keeps all, "dots" the results of the weight matmuls,
        "attention" those of attention and its inputs, "full" only the input of each block. Not used for a list.
    """
    if isinstance(blocks, nnx.List):
        step = _traced_once(blocks, shared)
        for i, block in enumerate(blocks):
            x, _ = step(x, (nnx.state(block), jax.tree.map(lambda leaf, i=i: leaf[i], per_block)))
        return x
    params, step = _scannable(blocks, shared, remat)
    return jax.lax.scan(step, x, (params, per_block))[0]


def scan_blocks_keeping(
    blocks: nnx.Module, x: jax.Array, *shared, keep: int, remat: str = "none"
) -> tuple[jax.Array, jax.Array]:
    """Applies the stacked `blocks` like `scan_blocks`; also returns the output of the first `keep` blocks."""
    params, step = _scannable(blocks, shared, remat)
    last = keep - 1 == jnp.arange(len(jax.tree.leaves(params)[0]))

    def keeping(carry, inputs):
        x, kept = carry
        params, is_last = inputs
        x, _ = step(x, (params, ()))
        return (x, jnp.where(is_last, x, kept)), None

    return jax.lax.scan(keeping, (x, jnp.zeros_like(x)), (params, last))[0]


def scan_groups(blocks: nnx.Module | nnx.List, x: jax.Array, groups: int, *, remat: str = "none") -> jax.Array:
    """Applies the stacked `blocks` and returns the outputs `[groups, ...]` after each of `groups` equal groups.

    It is a nested loop, because separate loops for the groups would each be compiled. Arguments as for `scan_blocks`.
    """
    if isinstance(blocks, nnx.List):
        step, outputs = _traced_once(blocks, ()), []
        for block in blocks:
            x, _ = step(x, (nnx.state(block), ()))
            outputs.append(x)
        size = len(outputs) // groups
        return jnp.stack(outputs[size - 1 :: size])
    params, step = _scannable(blocks, (), remat)
    params = jax.tree.map(lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:]), params)

    def group(x, params):
        x = jax.lax.scan(step, x, (params, ()))[0]
        return x, x

    return jax.lax.scan(group, x, params)[1]


def _traced_once(blocks, shared):
    """Returns the step of `_scannable` for a list of equal blocks, which is traced for the first one alone."""
    return jax.jit(_scannable(blocks[0], shared, "none")[1])


def _scannable(blocks, shared, remat):
    """Returns the stacked parameters of `blocks`, and the function that `jax.lax.scan` applies."""
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat is {remat!r}; expected one of {', '.join(REMAT_POLICIES)}")
    graphdef, params = nnx.split(blocks)

    def step(x, inputs):
        params, per_block = inputs
        return nnx.merge(graphdef, params)(x, *shared, *per_block), None

    if remat != "none":
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=False)
    return params, step
