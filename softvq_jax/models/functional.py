"""Modules as pure functions of plain trees: `nnx.split` at start, `nnx.merge` in the step."""

from collections.abc import Callable

import jax
from flax import nnx


class Functional:
    """A network whose parameters live outside of it.

    Attributes:
      shapes: its parameters, as a tree of `ShapeDtypeStruct`s.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        """From a constructor, which is traced and not run."""
        self._make = make
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graphdef, params, _ = nnx.split(abstract, nnx.Param, ...)
        self.shapes = nnx.to_pure_dict(params)

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """Fresh parameters, and buffers: what is not trained but moves (BatchNorm's statistics, say)."""
        _, params, buffers = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)

    def __call__(self, params, buffers=None) -> nnx.Module:
        """The module with these parameters and buffers, to be called where it is made."""
        return nnx.merge(self._graphdef, params, buffers or {})


def buffers_of(module: nnx.Module) -> dict:
    """A module's buffers after a call that may have moved them."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))
