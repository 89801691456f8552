"""What the loop needs of a task: a tokenizer run and a generator run both meet it, and the loop knows neither."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.train.data import Data
from softvq_jax.train.quality import Quality


class Report(NamedTuple):
    """An evaluation: numbers by name, and rows of uint8 images `[n, H, W, 3]` by the picture's name."""

    values: dict[str, float]
    pictures: dict[str, Sequence[np.ndarray]]


class Task(Protocol):
    """What is trained.

    Attributes:
      data: the samples; None in a task made of shapes.
      num_steps: of the whole run.
      inputs: fields of a batch that the step takes, each as the shape and type of one sample.
      step: the pure training step, `(state, frozen, batch, key) -> (state, metrics)`.
      frozen: host arrays of the networks that are not trained, given to every step.
      initial: host arrays that a fresh state starts from, given to `init`.
    """

    data: Data | None
    num_steps: int
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    step: Callable
    frozen: Any
    initial: Any

    @classmethod
    def open(cls, config: ConfigDict) -> "Task":
        """Finds the data and reads the weights that the config names; whatever is missing is told here."""

    @classmethod
    def abstract(cls, config: ConfigDict, num_samples: int) -> "Task":
        """The task with shapes in place of weights, for `num_samples` samples an epoch: enough to compile its step."""

    def init(self, key: jax.Array, initial) -> Any:
        """A fresh state, pure; it has `step` and `ema`, the averaged parameters that are evaluated and exported."""

    def compile_evaluation(self, mesh: Mesh, state_shapes) -> Callable:
        """`evaluate(ema, frozen, batch) -> (sums, shown)`, jitted: sums over the batch's valid samples, replicated.

        The batch has the fields of `inputs`, `valid` and `index`. What is `shown` of the first batch goes to `report`.
        """

    def report(self, ema, frozen, sums, shown) -> Report:
        """What is told of an evaluation, given the sums over all its batches; called by all processes."""

    def measure_quality(self, quality: Quality, step: int, params) -> dict[str, float]:
        """Held-out numbers that `quality` finds for what the averaged parameters (host arrays) make, by name."""

    def parameters(self, state) -> Any:
        """The trained parameters of a state, for the table at the start."""

    def export(self, params) -> Any:
        """What the averaged parameters `ema` (host arrays) make: an object with `save_pretrained(folder)`."""
