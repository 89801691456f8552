"""Content of a published folder besides the parameters, kept so that it can be written back unchanged."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
"""Types in which floating-point tensors can be stored."""


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedFiles:
    """Static metadata of a tokenizer or generator as a pytree; hashable, and compared by content.

    Attributes:
      config: content of `config.json`.
      extra: tensors that the network does not use.
      dtypes: dtypes of the tensors that are not float32.
      unused_rows: second halves of tensors of which the network uses the first half of the rows.
    """

    config: Mapping[str, Any]
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict)
    unused_rows: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def tensors(self, written: Mapping[str, np.ndarray], dtype: str | None = None) -> dict[str, np.ndarray]:
        """Returns all tensors of the file.

        Args:
          written: the tensors that the weight rules make from the parameters.
          dtype: type of all floating-point tensors; None for those of the published file, or float32.

        Raises:
          ValueError: the type is not in `DTYPES`, or a tensor has values beyond its range.
        """
        types = {key: np.dtype(self.dtypes.get(key, np.float32)) for key in written}
        types |= {key: tensor.dtype for key, tensor in self.extra.items()}
        if dtype is not None:
            if dtype not in DTYPES:
                raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
            stored, floats = np.dtype(DTYPES[dtype]), {np.dtype(kind) for kind in DTYPES.values()}
            types = {key: stored if kind in floats else kind for key, kind in types.items()}
        tensors = {key: _converted(key, tensor, types[key]) for key, tensor in {**written, **self.extra}.items()}
        for key, rest in self.unused_rows.items():
            tensors[key] = np.concatenate([tensors[key], _converted(key, rest, types[key])])
        return tensors

    def __hash__(self) -> int:
        return hash(json.dumps(dict(self.config), sort_keys=True, default=str))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, PublishedFiles) and (
            dict(self.config) == dict(other.config)
            and dict(self.dtypes) == dict(other.dtypes)
            and _same(self.extra, other.extra)
            and _same(self.unused_rows, other.unused_rows)
        )


def _converted(key, tensor, dtype):
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore"):
        converted = tensor.astype(dtype)
    if np.any(np.isfinite(tensor) & ~np.isfinite(converted)):
        raise ValueError(f"{key} has values that {dtype} cannot hold; use dtype bfloat16 or float32")
    return converted


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two sets of tensors have the same names, types and bits."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and a[key].tobytes() == b[key].tobytes()
        for key in a
    )
