"""Modules as pure functions of plain parameter trees: `nnx.split` once at start, `nnx.merge` inside the step."""

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import nnx

Network = TypeVar("Network", bound=nnx.Module)


class Functional(Generic[Network]):
    """A network of class `Network`, separated from its parameters.

    Attributes:
      shapes: shapes and types of the parameters, a tree of `ShapeDtypeStruct`s.
    """

    def __init__(self, make: Callable[[nnx.Rngs], Network]):
        """Traces `make(rngs)` without computing anything."""
        self._make = make
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graphdef, params, _ = nnx.split(abstract, nnx.Param, ...)
        self.shapes = nnx.to_pure_dict(params)

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """Returns new parameters and buffers (variables updated without gradients, such as BatchNorm's statistics)."""
        _, params, buffers = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)

    def __call__(self, params, buffers=None) -> Network:
        """Returns the module with these parameters and buffers; call it in the same traced function."""
        return nnx.merge(self._graphdef, params, buffers or {})


def functional(module: Callable[..., Network], *args: Any, **options: Any) -> Functional[Network]:
    """Returns the network `module(*args, **options, rngs=rngs)`, such as `functional(TokenizerModel, config)`.

    It is traced once for equal arguments, which must be hashable.
    """
    return _traced(module, *args, **options)


@functools.cache  # tracing SoftVQ-L takes half a second
def _traced(module, *args, **options):
    return Functional(lambda rngs: module(*args, **options, rngs=rngs))


def buffers_of(module: nnx.Module) -> dict:
    """Returns a module's buffers, for example after a call that updated them."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))
