"""The content of a published folder besides the parameters, kept so that it can be written back."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedFiles:
    """The static part of a tokenizer or generator as a pytree: equal where the contents are, and hashable.

    Attributes:
      config: the content of `config.json`.
      extra: tensors that the network does not use.
      dtypes: the dtypes of tensors other than float32.
      unused_rows: rows that the network does not use, the second halves of some tensors.
    """

    config: Mapping[str, Any]
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict)
    unused_rows: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def tensors(self, written: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns all tensors of the file, given those that the rules write from the parameters."""
        tensors = {key: tensor.astype(self.dtypes.get(key, np.float32)) for key, tensor in written.items()}
        for key, rest in self.unused_rows.items():
            tensors[key] = np.concatenate([tensors[key], rest])
        return tensors | dict(self.extra)

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


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Returns whether two sets of tensors have the same names, types and bits."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and a[key].tobytes() == b[key].tobytes()
        for key in a
    )
