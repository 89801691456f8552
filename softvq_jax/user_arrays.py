"""Checks of a user's arrays that can be traced: of shapes and types always, of values if there are any.

Inside `jax.jit`, `jax.vmap` or `jax.grad` an array has no values to check. The values of arrays that are sharded over
several processes are not checked either, because each process has only some of them.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from softvq_jax.pixels import from_uint8


def has_values(array: Any) -> bool:
    """Whether an array has values, all of them in this process."""
    if isinstance(array, jax.core.Tracer):
        return False
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def as_array(name: str, values: Any, dtype: Any = None) -> jax.Array:
    """Returns values as a JAX array.

    Raises:
      ValueError: they are not numbers, such as a string; rows of different lengths; or integers that JAX would wrap.
    """
    try:
        array = jnp.asarray(values, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} are {_shown(values)}; expected an array of numbers") from error
    if not isinstance(values, jax.Array) and jnp.issubdtype(array.dtype, jnp.integer) and has_values(array):
        exact = np.asarray(values)
        if exact.dtype.itemsize > array.dtype.itemsize and not np.array_equal(exact, array):
            raise ValueError(f"{name} range from {exact.min()} to {exact.max()}; expected {array.dtype}")
    return array


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Returns a number, or an array of them, as float64; raises ValueError for anything else, such as a string."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "USO":
            raise TypeError(f"a {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {_shown(value)}; expected a number") from error


def _shown(value):
    return " ".join(reprlib.repr(value).split())  # in one line


def check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    """Checks that an array is `[B, *expected]` with B at least 1.

    Raises:
      ValueError: it is not.
    """
    if array.shape[1:] != expected or not array.shape or not array.shape[0]:
        sizes = ", ".join(map(str, expected))
        raise ValueError(f"{name} have shape {array.shape}; expected [B, {sizes}] with B at least 1")


def images_in_range(images: Any, size: int) -> tuple[jax.Array, bool]:
    """Returns images as float32 in [-1, 1], and whether they look like images in [0, 1].

    Args:
      images: `[B, size, size, 3]`, floats in [-1, 1], or uint8, which is scaled.

    Raises:
      ValueError: the images have another shape or type, or values out of range, NaN included.
    """
    images = as_array("images", images)
    check_shape("images", images, (size, size, 3))
    if images.dtype == jnp.uint8:
        return from_uint8(images), False
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; expected floats in [-1, 1], or uint8 in 0..255")
    images = images.astype(jnp.float32)
    if not has_values(images):
        return images, False
    # The comparison is false for NaN, which XLA's minimum and maximum can miss on CPUs.
    if not jnp.all(jnp.abs(images) <= 1.001):
        low, high = np.min(np.asarray(images)), np.max(np.asarray(images))
        raise ValueError(
            f"image values range from {low:.4g} to {high:.4g}; expected [-1, 1]: x / 127.5 - 1 from 0..255"
        )
    low, high = float(jnp.min(images)), float(jnp.max(images))
    return images, 0 <= low < high


def check_integers(name: str, values: Any, low: int, high: int, *, expected: str) -> None:
    """Checks that integers lie in `low` to `high`.

    Raises:
      ValueError: they are not integers, or are out of range; `expected` ends the message about the range.
    """
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{name} are {values.dtype}; expected integers")
    if has_values(values):
        least, most = int(values.min()), int(values.max())
        if least < low or most > high:
            raise ValueError(f"{name} range from {least} to {most}; {expected}")


def count_parameters(params: Any) -> str:
    """Returns number and types of a tree's parameters as text, such as "391.2 M parameters in float32"."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    types = " and ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    number = f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"
    return f"{number} parameters in {types}" if leaves else "no parameters"


def as_tree(params: Any) -> Mapping[str, Any]:
    """Returns parameters as a tree of arrays, given such a tree or an NNX module."""
    from flax import nnx

    if isinstance(params, nnx.Module):
        return nnx.to_pure_dict(nnx.state(params, nnx.Param))
    return nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params


def check_tree(params: Any, expected: Any) -> None:
    """Checks that a tree has the structure and the shapes of another.

    Raises:
      ValueError: it does not; the message names the first parameter that differs.
    """
    given, wanted = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, expected))
    )
    for path in sorted(given.keys() | wanted.keys()):
        if path not in given or path not in wanted:
            raise ValueError(f"params have {'no' if path in wanted else 'an unknown'} parameter {path!r}")
        if given[path].shape != wanted[path].shape:
            raise ValueError(f"params: {path!r} has shape {given[path].shape}; expected {wanted[path].shape}")
