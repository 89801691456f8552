"""Content of a published folder besides the parameters, kept so that it can be written back unchanged."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


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

    def tensors(self, written: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns all tensors of the file, given those that the weight rules make from the parameters."""
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
    """Whether two sets of tensors have the same names, types and bits."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and a[key].tobytes() == b[key].tobytes()
        for key in a
    )
