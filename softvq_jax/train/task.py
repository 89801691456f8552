"""The interface between the training loop and the kinds of models that it trains, tokenizers and generators."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeGuard

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.evaluate.image_sets import Images
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.train.data import Data

Better = Literal["higher", "lower"]
"""Whether higher or lower values of a metric are better."""

Summary = tuple[dict[str, float], dict[str, Sequence[np.ndarray]]]
"""Metrics by name, and pictures by name, each as rows of uint8 images `[n, H, W, 3]`."""


class Task(Protocol):
    """A kind of model to train.

    Attributes:
      data: the samples; None for an abstract task.
      num_steps: number of steps of the whole run.
      inputs: shape and type of one sample in each field of a batch that the step takes.
      step: the pure training step, `(state, frozen, batch, key) -> (state, metrics)`.
      frozen: parameters of the networks that are not trained, as host arrays; an argument of every step.
      initial: pretrained parameters for a new state, as host arrays; an argument of `init`.
      better: whether higher or lower values are better, for metrics of `summarize` that can choose the best step.
      protocol: name of the evaluation protocol for `predictions`.
      metric_names: maps metrics of `evaluation.json` to their names in the run.
      codebook_size: codebook size of the trained tokenizer; None without a codebook.
      learning_rate: of the optimizer at a step, counted from 0.
      published: fields of `config.json` of what is exported that neither config nor parameters determine; JSON values,
        which checkpoints carry.
      draws_images: whether the task is a `DrawingTask`.
    """

    data: Data | None
    num_steps: int
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    step: Callable
    frozen: Any
    initial: Any
    better: Mapping[str, Better]
    protocol: str
    metric_names: Mapping[str, str]
    codebook_size: int | None
    learning_rate: Callable[[jax.Array], jax.Array]
    draws_images: bool

    @property
    def published(self) -> Mapping[str, Any]: ...

    @classmethod
    def open(cls, config: ConfigDict, source: Any = None) -> "Task":
        """Opens the data, or takes those of `source`, and reads the weights; raises if something is missing."""
        ...

    @classmethod
    def abstract(cls, config: ConfigDict, num_samples: int) -> "Task":
        """Makes a task with shapes instead of weights, for `num_samples` samples per epoch, to compile its step."""
        ...

    def init(self, key: jax.Array, initial) -> Any:
        """A new state, by a pure function; `params` are trained, `ema` their average, evaluated and exported."""
        ...

    def start(self) -> Any:
        """The parameters that `config.init_from` gives a new run: `initial["init_from"]` of `init`, as host arrays."""
        ...

    def compile_evaluation(self, mesh: Mesh, state_shapes) -> Callable:
        """Returns the jitted `evaluate(ema, frozen, batch) -> (sums, shown)`.

        `sums` are replicated sums over the valid samples of a batch. The batch has the fields of `inputs`, `valid` and
        `index`. `shown` of the first batch is passed to `summarize`.
        """
        ...

    def summarize(self, ema, frozen, sums, shown) -> Summary:
        """Returns metrics and pictures, given the sums over all batches; called by all processes.

        Without pictures for `shown=None`.
        """
        ...

    def predictions(
        self, params, *, images: Images | None, count: int, extractor: FeatureExtractor | None, devices: LocalDevices
    ) -> Predictions:
        """Returns reconstructions of held-out `images`, or `count` samples, by the averaged parameters (host arrays)."""
        ...

    def parameters(self, state) -> Any:
        """Returns the trained parameters of a state, for the table in the log."""
        ...

    def export(self, params) -> Any:
        """Returns an object with `save_pretrained(folder)`, given the averaged parameters (host arrays)."""
        ...


class DrawingTask(Task, Protocol):
    """A task that can draw sample images."""

    def samples(self, ema, frozen, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `count` samples, uint8 `[n, H, W, 3]`, and their classes `[n]`, in every process."""
        ...

    def decode_batch(self, frozen, batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns reconstructions of a batch (uint8), its labels, and which samples are valid."""
        ...


def draws_images(task: Task) -> TypeGuard[DrawingTask]:
    """Returns `task.draws_images`, and narrows the task's type."""
    return task.draws_images


def data_of(task: Task) -> Data:
    """Returns the samples of a task; raises ValueError for an abstract task, which has none."""
    if task.data is None:
        raise ValueError("a task made of shapes has no samples: use one from `open`")
    return task.data
