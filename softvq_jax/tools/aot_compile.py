"""Compiles a config's training step for a TPU slice that is not here, and says what it costs.

    python -m softvq_jax.tools.aot_compile --config=configs/l64.py --topology=v5e:16x16 --batch=4096

Needs the TPU compiler (`pip install 'softvq-jax[aot]'`) and no TPU, weights or data. `--fit` finds the largest batch
that fits the slice. Any field of the config can be set: `--config.mesh.fsdp=16`, `--config.model.remat=dots`.
"""

import jax
from absl import app, flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from softvq_jax.aot.compile import OutOfMemory, compile_for
from softvq_jax.aot.report import IMAGENET_TRAIN_IMAGES, Report, analyse, describe, does_not_fit
from softvq_jax.aot.topology import Topology, get_topology
from softvq_jax.parallel.mesh import batch_sharding, check_global_batch, make_mesh, replicated
from softvq_jax.parallel.sharding import abstract, shardings_for
from softvq_jax.train.compile import jit_step
from softvq_jax.train.tasks import TASKS

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path to a config file, see configs/.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, as generation:shape, for instance v5e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "How many such slices, joined by the data-centre network.")
_BATCH = flags.DEFINE_integer("batch", None, "Images a step, over all chips; the config's if not given.")
_FIT = flags.DEFINE_bool("fit", False, "Find the largest batch that fits, a power of two a chip.")


def measure(config: ConfigDict, topology: Topology) -> Report:
    """Compiles the step of `config` on `topology` and reads its cost.

    Raises:
      ValueError: the config's mesh or batch does not fit the number of chips.
    """
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    batch = config.train.batch_size
    check_global_batch(batch, mesh)
    try:
        return analyse(compile_for(*abstract_step(config, mesh), mesh), topology, mesh, batch)
    except OutOfMemory as error:
        return does_not_fit(error, topology, mesh, batch)


def largest_batch(config: ConfigDict, topology: Topology) -> Report:
    """The report of the largest batch that fits, over 1, 2, 4, ... images a chip; of 1 a chip if that does not fit."""
    config, best, images = config.copy_and_resolve_references(), None, 1
    while True:
        config.train.batch_size = images * len(topology.devices)
        report = measure(config, topology)
        if not report.memory.fits:
            return best or report
        best, images = report, 2 * images


def abstract_step(config: ConfigDict, mesh: Mesh) -> tuple[jax.stages.Wrapped, tuple]:
    """The jitted training step of the config's task, and its arguments as shapes with shardings."""
    task = TASKS[config.task].abstract(config, IMAGENET_TRAIN_IMAGES)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(task.init, key, task.initial)
    rows = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.train.batch_size, *sample.shape), sample.dtype, sharding=rows)
        for name, sample in task.inputs.items()
    }
    arguments = (
        abstract(state, shardings_for(state, mesh)),
        abstract(task.frozen, shardings_for(task.frozen, mesh)),
        batch,
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh)),
    )
    return jit_step(task.step, state, task.frozen, mesh), arguments


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"what is {argv[1]!r}? Flags begin with --")
    jax.config.update("jax_platforms", "cpu")  # Nothing runs here; looking for an accelerator only costs time.
    config = _CONFIG.value
    if _BATCH.value is not None:
        config.train.batch_size = _BATCH.value
    topology = get_topology(_TOPOLOGY.value, _SLICES.value)
    print(describe((largest_batch if _FIT.value else measure)(config, topology)))


def run() -> None:
    """The command line; errors that a person can act on end in their message alone."""
    flags.mark_flags_as_required(["config", "topology"])
    try:
        app.run(main)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    run()
