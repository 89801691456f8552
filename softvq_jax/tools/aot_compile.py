"""Compiles a config's training step for a TPU slice that is not here, and says what it costs.

    python -m softvq_jax.tools.aot_compile --config=configs/l64.py --topology=v5e:16x16 --batch=4096

Needs the TPU compiler (`pip install 'softvq-jax[aot]'`) and no TPU, weights or data. Waits until the compiler has laid
out the program and its memory; `--machine_code` waits for the rest too, minutes that change no number. `--fit` finds the
largest batch that fits the slice. Any field of the config can be set: `--config.mesh.fsdp=16`,
`--config.model.remat=dots`.
"""

import multiprocessing

import jax
from absl import app, flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from softvq_jax.aot.compile import OutOfMemory, compile_for, plan_for
from softvq_jax.aot.report import IMAGENET_TRAIN_IMAGES, Report, analyse, describe, does_not_fit
from softvq_jax.aot.topology import chips_of, get_topology
from softvq_jax.parallel.mesh import batch_sharding, check_global_batch, make_mesh, replicated
from softvq_jax.parallel.sharding import abstract, shardings_for
from softvq_jax.train.compile import jit_step
from softvq_jax.train.tasks import TASKS

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path to a config file, see configs/.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, as generation:shape, for instance v5e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "How many such slices, joined by the data-centre network.")
_BATCH = flags.DEFINE_integer("batch", None, "Images a step, over all chips; the config's if not given.")
_FIT = flags.DEFINE_bool("fit", False, "Find the largest batch that fits, a power of two a chip.")
_MACHINE_CODE = flags.DEFINE_bool("machine_code", False, "Compile to the very end.")


def measure(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> Report:
    """Compiles the step of `config` for `slices` TPU slices called `name` and reads its cost.

    Works in a process of its own: without machine code the compiler is killed when all is known.

    Raises:
      ValueError: the name is not known, or the config's mesh or batch does not fit the number of chips.
      RuntimeError: there is no TPU compiler, or it failed.
    """
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(ours, config, name, slices, machine_code), daemon=True)
    child.start()
    ours.close()
    try:
        answer = theirs.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the compiling process ended with code {child.exitcode} (-9: out of memory?)") from None
    finally:
        child.kill()
        child.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(connection, *args) -> None:
    jax.config.update("jax_platforms", "cpu")  # Nothing runs here; looking for an accelerator only costs time.
    jax.config.update("jax_enable_compilation_cache", False)  # A program for absent chips cannot be taken out of it.
    try:
        answer = _measure(*args)
    except (ValueError, RuntimeError) as error:
        answer = (ValueError if isinstance(error, ValueError) else RuntimeError)(str(error))
    connection.send(answer)


def _measure(config: ConfigDict, name: str, slices: int, machine_code: bool) -> Report:
    topology = get_topology(name, slices)
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    batch = config.train.batch_size
    check_global_batch(batch, mesh)
    try:
        compiled = (compile_for if machine_code else plan_for)(*abstract_step(config, mesh), mesh)
        return analyse(compiled, topology, mesh, batch)
    except OutOfMemory as error:
        return does_not_fit(error, topology, mesh, batch)


def largest_batch(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> Report:
    """The report of the largest batch that fits, over 1, 2, 4, ... images a chip; of 1 a chip if that does not fit."""
    config, best, images = config.copy_and_resolve_references(), None, 1
    while True:
        config.train.batch_size = images * slices * chips_of(name)
        report = measure(config, name, slices, machine_code=machine_code)
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
    config = _CONFIG.value
    if _BATCH.value is not None:
        config.train.batch_size = _BATCH.value
    report = largest_batch if _FIT.value else measure
    print(describe(report(config, _TOPOLOGY.value, _SLICES.value, machine_code=_MACHINE_CODE.value)))


def run() -> None:
    """The command line; errors that a person can act on end in their message alone."""
    flags.mark_flags_as_required(["config", "topology"])
    try:
        app.run(main)
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    run()
