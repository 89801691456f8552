"""The interface of evaluators, the entries of `config.evals`, each of which has its own schedule.

To add one, subclass `Evaluator` in a file of your own and name it in the config (`config.evals.add_evaluator`):

    class SharpnessEvaluator(Evaluator):
        better = {"eval_sharpness": "higher"}

        def __call__(self, state, step):
            params = self.run.on_host(state.ema)
            return Evaluation({"eval_sharpness": sharpness(self.run.task.export(params))})
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.parallel.mesh import global_batch, replicated
from softvq_jax.train.task import Better, Task


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluator.

    Attributes:
      metrics: numbers by name, as they appear in `metrics.jsonl`; the same in all processes.
      images: rows of uint8 images `[n, H, W, 3]` by the name of the picture that they make.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    images: dict[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class EvaluatedRun:
    """The parts of a run that evaluators use.

    Attributes:
      config: of the run.
      task: what is trained; its `data` are the samples.
      workdir: of the run.
      mesh: all devices of all processes.
      frozen: the frozen networks on the devices; set when training starts.
      held_out_sums: the compiled `task.compile_evaluation`; set when training starts.
      check_preemption: raises `Preempted` if the run has to stop; all processes must call it equally often.
    """

    config: ConfigDict
    task: Task
    workdir: pathlib.Path
    mesh: Mesh
    frozen: Any = None
    held_out_sums: Callable | None = None
    check_preemption: Callable[[], None] = lambda: None

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.task.num_steps

    def inputs(self, batch: Mapping, *more: str) -> Any:
        """The fields of a batch that the task takes, and `more`, as sharded arrays."""
        fields = {name: batch[name] for name in (*self.task.inputs, *more)}
        return global_batch(fields | ({"index": np.int32(batch["index"])} if "index" in more else {}), self.mesh)

    def on_host(self, tree: Any, *, keep: bool = True) -> Any:
        """Gathers sharded arrays as numpy arrays; see `gather_to_host`."""
        return gather_to_host(tree, self.mesh, keep=keep)


def gather_to_host(tree: Any, mesh: Mesh, *, keep: bool = True) -> Any:
    """Gathers sharded arrays as numpy arrays in the processes that `keep` them, and None in the others.

    Called by all processes. Arrays are gathered one by one, so that a device never holds more than one full array.
    """

    def gather(array):
        one_process = jax.process_count() == 1
        full = array if one_process else jax.block_until_ready(jax.device_put(array, replicated(mesh)))
        return np.asarray(full) if keep else None

    return jax.tree.map(gather, tree)


class Evaluator:
    """Base class of evaluators.

    All processes construct and call it. Wrong settings and missing files raise in the constructor, before training.

    Args:
      section: its section of `config.evals`.
      run: the run to evaluate.

    Attributes:
      better: its metrics that `checkpoint.best_metric` may name, and whether higher or lower values are better.
    """

    better: Mapping[str, Better] = {}

    def __init__(self, section: ConfigDict, run: EvaluatedRun):
        self.section, self.run = section, run

    def due(self, step: int) -> bool:
        """Whether to evaluate after `step`: every `every_steps` and after the last step; never if that is 0."""
        every = self.section.every_steps
        return every > 0 and (step % every == 0 or step == self.run.num_steps)

    def __call__(self, state: Any, step: int) -> Evaluation:
        """Evaluates the state of a step; `state.ema` are the averaged parameters.

        Long evaluations call `run.check_preemption` between batches; what it raises ends the evaluation.
        """
        raise NotImplementedError
