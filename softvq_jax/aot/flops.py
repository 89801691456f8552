"""Floating-point operations of the matmuls and convolutions in a traced function; a multiply-add counts as two."""

import math
from collections.abc import Iterator

import jax
from jax.extend import core


def matmul_flops(jaxpr: core.ClosedJaxpr, *, recomputed: bool = True) -> float:
    """Returns the floating-point operations of all matmuls and convolutions in `jaxpr`, summed over all devices.

    The body of a scan counts once for each iteration, a conditional as its most expensive branch, a Pallas kernel by its
    cost estimate. Elementwise operations, which do not run on matrix units, do not count.

    Args:
      jaxpr: the traced function.
      recomputed: whether operations count that `jax.checkpoint` does again in the backward pass.

    Raises:
      ValueError: a `while` loop of unknown length contains a product, or a kernel has no cost estimate.
    """
    return _count(jaxpr.jaxpr, recomputed)


def _count(jaxpr: core.Jaxpr, recomputed: bool) -> float:
    return sum(_equation(e, recomputed) for e in jaxpr.eqns if recomputed or not _is_recomputed(e))


def _is_recomputed(equation) -> bool:
    return "rematted_computation" in str(equation.source_info.name_stack)


def _equation(equation, recomputed) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_general(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "scan":
        return params["length"] * _count(params["jaxpr"].jaxpr, recomputed)
    if name == "cond":
        return max(_count(branch.jaxpr, recomputed) for branch in params["branches"])
    if name == "shard_map":  # its body is the work of one device
        return params["mesh"].size * sum(_count(jaxpr, recomputed) for jaxpr in _jaxprs(params))
    if name == "pallas_call":
        return _kernel(equation)
    inner = sum(_count(jaxpr, recomputed) for jaxpr in _jaxprs(params))
    if name == "while" and inner:
        raise ValueError(
            "a while loop of unknown length contains matrix products: use scan, or fori_loop with fixed bounds"
        )
    return inner


def _kernel(equation) -> float:
    """A Pallas kernel states its own cost: its jaxpr is that of one block, and its loops may have unknown lengths."""
    cost = equation.params["cost_estimate"]
    if cost is None:
        raise ValueError(f"{equation.params['name_and_src_info']} has no cost estimate: give pallas_call one")
    return float(cost.flops)


def _dot_general(equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation) -> float:
    """Counts a convolution; each output number is a sum over the kernel's window and the input channels."""
    kernel = equation.invars[1].aval.shape
    out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    # Zeros inserted by an input dilation (in the gradient of a strided convolution) do not count.
    skipped = math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / out_channels / skipped


def _jaxprs(params: dict) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for leaf in jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)):
            if isinstance(leaf, core.ClosedJaxpr):
                yield leaf.jaxpr
            elif isinstance(leaf, core.Jaxpr):
                yield leaf
