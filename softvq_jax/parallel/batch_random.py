"""Random numbers for the examples of a batch, the same whether the batch is computed at once or in pieces.

Inside `piece`, a function that computes a piece of a batch draws the numbers that its examples get in the whole batch. So a
step that is split, because there are fewer devices than before, computes the same losses.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax.typing import ArrayLike


class _Piece(NamedTuple):
    index: ArrayLike
    count: int


class _Current(threading.local):
    piece: _Piece | None = None


_current = _Current()


@contextlib.contextmanager
def piece(index: ArrayLike, count: int) -> Iterator[None]:
    """Context, while tracing, in which a batch is the examples `index`, `index + count`, ... of one in `count` parts."""
    before, _current.piece = _current.piece, _Piece(index, count)
    try:
        yield
    finally:
        _current.piece = before


@contextlib.contextmanager
def whole_batch() -> Iterator[int]:
    """Context, while tracing, in which the functions below draw for the whole batch, also inside `piece`.

    Yields the number of its parts: a piece of 4 examples out of 3 parts is one of a batch of 12.
    """
    before, _current.piece = _current.piece, None
    try:
        yield 1 if before is None else before.count
    finally:
        _current.piece = before


def draw(draw: Callable[[tuple[int, ...]], jax.Array], shape: Sequence[int], axis: int = 0) -> jax.Array:
    """Returns `draw(shape)`; inside `piece`, the rows of this piece out of a draw for the whole batch.

    Args:
      draw: draws an array of a given shape.
      shape: shape of the array.
      axis: the axis of the examples.
    """
    parts = 1 if _current.piece is None else _current.piece.count
    shape = tuple(shape)
    return of_piece(draw((*shape[:axis], parts * shape[axis], *shape[axis + 1 :])), axis)


def of_piece(whole: jax.Array, axis: int = 0) -> jax.Array:
    """Returns the examples of this piece, given an array for the whole batch; outside of `piece`, returns the array."""
    current, shape = _current.piece, whole.shape
    if current is None:
        return whole
    rows = whole.reshape(*shape[:axis], -1, current.count, *shape[axis + 1 :])
    return jax.lax.dynamic_index_in_dim(rows, current.index, axis + 1, keepdims=False)


def normal(key: jax.Array, shape: Sequence[int], axis: int = 0) -> jax.Array:
    """Draws from the normal distribution; see `draw`."""
    return draw(lambda shape: jax.random.normal(key, shape), shape, axis)


def uniform(key: jax.Array, shape: Sequence[int], axis: int = 0) -> jax.Array:
    """Draws from [0, 1); see `draw`."""
    return draw(lambda shape: jax.random.uniform(key, shape), shape, axis)


def bernoulli(key: jax.Array, probability: ArrayLike, shape: Sequence[int], axis: int = 0) -> jax.Array:
    """Draws booleans, True with `probability`; see `draw`."""
    return draw(lambda shape: jax.random.bernoulli(key, probability, shape), shape, axis)


def randint(key: jax.Array, shape: Sequence[int], low: ArrayLike, high: ArrayLike, axis: int = 0) -> jax.Array:
    """Draws integers from `low` to `high - 1`; see `draw`."""
    return draw(lambda shape: jax.random.randint(key, shape, low, high), shape, axis)


def gumbel(key: jax.Array, shape: Sequence[int], axis: int = 0) -> jax.Array:
    """Draws from the standard Gumbel distribution; see `draw`."""
    return draw(lambda shape: jax.random.gumbel(key, shape), shape, axis)


def split(key: jax.Array, count: int) -> jax.Array:
    """Returns a key for each of `count` examples; see `draw`."""
    return draw(lambda shape: jax.random.split(key, shape), (count,))
