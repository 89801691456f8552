"""The interface of evaluators, the entries of `config.evals`. Each evaluator has its own schedule.

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
from softvq_jax.train.offload import on_devices
from softvq_jax.train.task import Better, Task


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluator.

    Attributes:
      metrics: numbers by their names in `metrics.jsonl`; the same in all processes.
      images: pictures by name; each is a list of rows of uint8 images `[n, H, W, 3]`.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    images: dict[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class EvaluatedRun:
    """The parts of a run that evaluators use.

    Attributes:
      config: the run's config.
      task: the task that is trained; `task.data` holds the samples.
      workdir: the run's folder.
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
        """Number of steps of the whole run."""
        return self.task.num_steps

    def inputs(self, batch: Mapping, *more: str) -> Any:
        """Returns the fields of a batch that the task takes, and the fields `more`, as sharded arrays."""
        fields = {name: batch[name] for name in (*self.task.inputs, *more)}
        return global_batch(fields | ({"index": np.int32(batch["index"])} if "index" in more else {}), self.mesh)

    def on_host(self, tree: Any, *, keep: bool = True) -> Any:
        """Gathers sharded arrays as NumPy arrays; see `gather_to_host`."""
        return gather_to_host(tree, self.mesh, keep=keep)


def gather_to_host(tree: Any, mesh: Mesh, *, keep: bool = True) -> Any:
    """Gathers sharded arrays; returns them as NumPy arrays if `keep`, else None.

    Called by all processes. Arrays are gathered one by one, so that a device never holds more than one full array.
    """

    def gather(array):
        one_process = jax.process_count() == 1
        array = on_devices(array)
        full = array if one_process else jax.block_until_ready(jax.device_put(array, replicated(mesh)))
        return np.asarray(full) if keep else None

    return jax.tree.map(gather, tree)


class Evaluator:
    """Base class of evaluators.

    All processes construct and call it. The constructor raises for wrong settings and missing files, before training.

    Args:
      section: the evaluator's section of `config.evals`.
      run: the run to evaluate.

    Attributes:
      better: "higher" or "lower" for each metric that `checkpoint.best_metric` may name.
    """

    better: Mapping[str, Better] = {}

    def __init__(self, section: ConfigDict, run: EvaluatedRun):
        self.section, self.run = section, run

    def due(self, step: int) -> bool:
        """Returns whether to evaluate after `step`: every `every_steps` and after the last step; never if it is 0."""
        every = self.section.every_steps
        return every > 0 and (step % every == 0 or step == self.run.num_steps)

    def __call__(self, state: Any, step: int) -> Evaluation:
        """Evaluates the state of a step; `state.ema` are the averaged parameters.

        Long evaluations must call `run.check_preemption` between batches, and let its exception pass.
        """
        raise NotImplementedError
