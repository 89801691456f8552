"""Rules that map PyTorch tensors to parameter trees, and back.

Each family of networks has one list of rules. `read` builds a parameter tree from a PyTorch state dict; `write` returns
the state dict, equal key for key and bit for bit.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import ml_dtypes
import numpy as np
from flax import traverse_util

# Suffixes of the scales that quantized tensors are multiplied with.
_SCALES = ("_scale", "_scale_inv", ".scale")


class WeightsError(ValueError):
    """A weights file does not fit the network; the message names the first mismatching key and both shapes."""


@contextlib.contextmanager
def reading(source: str, network: str) -> Iterator[None]:
    """Turns errors of code that infers a network's shape from tensors into a WeightsError.

    Args:
      source: the file's name, which every message begins with.
      network: what the tensors should be, such as "a SiT".
    """
    try:
        yield
    except WeightsError as error:
        raise error if str(error).startswith(source) else WeightsError(f"{source}: {error}") from error
    except KeyError as error:
        raise WeightsError(f"{source}: the weights have no tensor {error}: not {network}") from error
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise WeightsError(f"{source}: the tensors do not have the shapes of {network}: {error}") from error


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """Number of blocks in tensors called `{prefix}{i}.…`, where `i` counts from 0.

    Raises:
      WeightsError: an index is not a number, or one is missing; names the tensor.
    """
    first = {}
    for name in names:
        if name.startswith(prefix):
            index = name.removeprefix(prefix).split(".")[0]
            if not (index.isascii() and index.isdigit()):
                raise WeightsError(f"{name!r} should have the number of a block in place of {index!r}")
            first.setdefault(int(index), name)
    if not first:
        raise WeightsError(f"the weights have no tensor of block 0, '{prefix}0.…'")
    for place, index in enumerate(sorted(first)):
        if place != index:
            raise WeightsError(f"there is {first[index]!r}, but no tensor of block {place}, '{prefix}{place}.…'")
    return len(first)


def check_unused(names: Iterable[str], used: Collection[str], *, source: str) -> None:
    """Checks that blocks and register tokens of a transformer are not left out.

    Raises:
      WeightsError: a tensor of a block, or register tokens, are not in `used`.
    """
    for name in sorted(names):
        parts = name.split(".")
        if name not in used and (
            {"blocks", "transformer"} & set(parts) or parts[-1] in ("register_tokens", "reg_token")
        ):
            raise WeightsError(
                f"{source} has {name!r}, which this network does not use: it would be another network without it. Give "
                "the network the depth, registers and layer scale of the file"
            )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Conversion of a tensor between its layouts in PyTorch and here, without arithmetic, one function each way."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _unpatch(kernel):
    side = round((kernel.shape[0] / 3) ** 0.5)
    return kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


SAME = Layout(lambda w: w, lambda w: w)
LINEAR = Layout(lambda w: w.T, lambda w: w.T)  # [out, in] <-> [in, out]
CONV1D = Layout(lambda w: w.transpose(2, 1, 0), lambda w: w.transpose(2, 1, 0))  # OIK <-> KIO
CONV2D = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # OIHW <-> HWIO
CONV1X1 = Layout(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])  # [out, in, 1, 1] <-> [in, out]
# The patch embedding is a convolution in PyTorch, and a linear map of channel-last patches here.
PATCH = Layout(lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]), _unpatch)
LEADING_ONE = Layout(lambda w: w[0], lambda w: w[None])  # [1, ...] <-> [...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A leaf of our parameter tree, by its `/`-joined path, and its key in the PyTorch state dict.

    With a `count`, our leaf has a leading axis of that length, and `key` contains `{i}` for the index along it. With
    `joined`, `key` contains `{part}` for each of these names, and the tensors are concatenated along their first axis
    before `layout` applies. If
    `first_half`, the tensor may have twice as many rows, and our leaf is the first half of them.
    """

    path: str
    key: str
    layout: Layout = SAME
    count: int | None = None
    joined: tuple[str, ...] = ("",)
    first_half: bool = False

    @property
    def keys(self) -> list[str]:
        indices = range(1 if self.count is None else self.count)
        return [self.key.format(i=i, part=part) for i in indices for part in self.joined]


def linear(path: str, key: str, count: int | None = None, *, bias: bool = True) -> list[Rule]:
    """Returns the rules of a linear map: `kernel` and `bias` here, `weight` and `bias` in PyTorch."""
    rules = [Rule(f"{path}/kernel", f"{key}.weight", LINEAR, count)]
    return rules + ([Rule(f"{path}/bias", f"{key}.bias", SAME, count)] if bias else [])


def norm(path: str, key: str, count: int | None = None) -> list[Rule]:
    """Returns the rules of an affine norm: `scale` and `bias` here, `weight` and `bias` in PyTorch."""
    return [Rule(f"{path}/scale", f"{key}.weight", SAME, count), Rule(f"{path}/bias", f"{key}.bias", SAME, count)]


def read(rules: Iterable[Rule], tensors: Mapping[str, np.ndarray], expected: Mapping, *, source: str) -> dict:
    """Builds a parameter tree from a PyTorch state dict.

    Args:
      rules: one rule for each leaf of `expected`.
      tensors: arrays by PyTorch key; keys without a rule are ignored.
      expected: tree of arrays or `ShapeDtypeStruct`s with the network's shapes.
      source: the file's name, for messages.

    Returns:
      The tree, float32.

    Raises:
      WeightsError: a tensor is missing, has another shape, or holds no floats or NaN; the message names the first.
    """
    leaves = traverse_util.flatten_dict(dict(expected))
    # flax declares no types, and pyright infers dicts for leaves.
    shapes = {"/".join(path): leaf.shape for path, leaf in leaves.items()}  # pyright: ignore[reportAttributeAccessIssue]
    flat = {}
    for rule in rules:
        keys, number = rule.keys, len(rule.joined)
        groups = [keys[i : i + number] for i in range(0, len(keys), number)]
        parts = [_joined(rule, group, tensors, shapes[rule.path], source) for group in groups]
        flat[rule.path] = parts[0] if rule.count is None else np.stack(parts)
    missing = sorted(shapes.keys() - flat.keys())
    if missing:
        raise AssertionError(f"no rule fills {missing[:3]}: the rules of this family are incomplete")
    return traverse_util.unflatten_dict({tuple(path.split("/")): leaf for path, leaf in flat.items()})


def _joined(rule, keys, tensors, shape, source):
    shape = shape if rule.count is None else shape[1:]
    theirs = rule.layout.to_torch(np.broadcast_to(np.float32(0), shape)).shape
    if len(keys) > 1:
        theirs = (theirs[0] // len(keys), *theirs[1:])
    arrays = [_tensor(rule, key, tensors, shape, theirs, source) for key in keys]
    array = np.concatenate(arrays) if len(keys) > 1 else arrays[0]
    return np.ascontiguousarray(rule.layout.to_ours(array))


def _tensor(rule, key, tensors, shape, theirs, source):
    if key not in tensors:
        raise WeightsError(
            f"{source} has no tensor {key!r}; this network needs it with our shape {tuple(shape)} ({rule.path})"
        )
    array = np.asarray(tensors[key])
    if rule.first_half and array.shape == (2 * theirs[0], *theirs[1:]):
        array = array[: theirs[0]]
    if array.shape != theirs:
        raise WeightsError(
            f"{source}: {key!r} has shape {array.shape}, but this network's is {theirs} ({rule.path}): "
            "the file belongs to a network of another size"
        )
    if not is_floating(array.dtype) or any(f"{key}{scale}" in tensors for scale in _SCALES):
        raise WeightsError(
            f"{source}: {key!r} is {array.dtype}, quantized; expected float32, float16, bfloat16 or float8 without scales"
        )
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise WeightsError(
            f"{source}: {count:,} of the {array.size:,} values of {key!r} are NaN or infinite; expected finite numbers"
        )
    return array


def is_floating(dtype: np.dtype) -> bool:
    """Whether a dtype holds real floating-point numbers, those of `ml_dtypes` included."""
    try:
        ml_dtypes.finfo(dtype)
    except (ValueError, TypeError):
        return False
    return not np.issubdtype(dtype, np.complexfloating)


def unused_rows(rules: Iterable[Rule], tensors: Mapping[str, np.ndarray], params: Mapping) -> dict[str, np.ndarray]:
    """The rows that `read` left out of tensors, by key; `write` followed by these gives the tensors back."""
    written = write([rule for rule in rules if rule.first_half], params)
    return {key: tensors[key][len(part) :] for key, part in written.items() if len(tensors[key]) > len(part)}


def write(rules: Iterable[Rule], params: Mapping) -> dict[str, np.ndarray]:
    """Returns the PyTorch state dict of a parameter tree, the inverse of `read`."""
    flat = {"/".join(path): np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(params)).items()}
    tensors = {}
    for rule in rules:
        leaf, number = flat[rule.path], len(rule.joined)
        wholes = [rule.layout.to_torch(part) for part in ([leaf] if rule.count is None else leaf)]
        parts = [part for whole in wholes for part in (np.split(whole, number) if number > 1 else [whole])]
        tensors |= zip(rule.keys, map(np.ascontiguousarray, parts), strict=True)
    return tensors
