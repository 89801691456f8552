"""Compiles a config's training step for a TPU slice, without a TPU, and prints its memory, arithmetic and least time.

    python -m softvq_jax.tools.aot_compile --config=configs/l64.py --topology=v5e:16x16 --batch=4096

Needs the TPU compiler (`pip install 'softvq-jax[aot]'`), but no weights or data. Stops when the compiler has assigned
the program's memory; `--machine_code` also waits for machine code, which takes minutes and changes no number. If the
step does not fit, the tool tries more sharding and rematerialization until it does, and prints the flags. `--fit` finds
the largest batch that fits the slice. Any field of the config can be set, for instance `--config.mesh.fsdp=16` or
`--config.model.remat=dots`.
"""

import functools
import itertools
import multiprocessing
from collections.abc import Iterator, Mapping

import jax
from absl import app, flags
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from softvq_jax.aot.compile import OutOfMemory, compile_for, plan_for
from softvq_jax.aot.memory_saving import MemoryOptions, options_using_less
from softvq_jax.aot.step_cost import IMAGENET_TRAIN_IMAGES, Memory, StepCost, analyze, describe, does_not_fit
from softvq_jax.aot.topology import chips_of, get_topology
from softvq_jax.config import check_values
from softvq_jax.config.flags import define_config, parse_flags
from softvq_jax.parallel.mesh import AXES, batch_sharding, check_global_batch, make_mesh, replicated, resolve_axes
from softvq_jax.parallel.sharding import abstract, shardings_for
from softvq_jax.train.compile import jit_step
from softvq_jax.train.offload import state_shardings
from softvq_jax.train.tasks import TASKS

_CONFIG = define_config()
_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, as generation:shape, for instance v5e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "Number of such slices, connected by the data-center network.")
_BATCH = flags.DEFINE_integer(
    "batch", None, "Images in a step, over all chips; default: train.batch_size of the config."
)
_FIT = flags.DEFINE_bool("fit", False, "Find the largest batch that fits, in whole images per chip.")
_MACHINE_CODE = flags.DEFINE_bool("machine_code", False, "Compile to machine code.")


def measure(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost:
    """Compiles the step of `config` for `slices` TPU slices called `name`, and returns its cost.

    Compiles in a process of its own, which is killed when the cost is known.

    Raises:
      ValueError: the name is unknown, or the config's mesh or batch does not fit the number of chips.
      RuntimeError: the TPU compiler is missing or failed.
    """
    check(config, name, slices)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_cost, args=(sender, config, name, slices, machine_code), daemon=True)
    child.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the compiling process ended with code {child.exitcode} (-9: out of memory?)") from None
    finally:
        child.kill()
        child.join()
    if isinstance(result, Exception):
        raise result
    return result


def _send_cost(connection, *args) -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing runs here, and searching for accelerators takes time
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot load programs for other devices
    try:
        result = _measure(*args)
    except (ValueError, RuntimeError) as error:
        result = (ValueError if isinstance(error, ValueError) else RuntimeError)(str(error))
    connection.send(result)


def _measure(config: ConfigDict, name: str, slices: int, machine_code: bool) -> StepCost:
    topology = get_topology(name, slices)
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    batch = config.train.batch_size
    check_global_batch(batch, mesh)
    try:
        compiled = (compile_for if machine_code else plan_for)(*abstract_step(config, mesh), mesh)
        return analyze(compiled, topology, mesh, batch)
    except OutOfMemory as error:
        return does_not_fit(error, topology, mesh, batch)


def check_task(config: ConfigDict) -> None:
    """Raises ValueError for a config without a training step of its own, such as a study's."""
    if config.task not in TASKS:
        raise ValueError(
            f"the config's task is {config.task!r}, which has no single training step; expected one of {', '.join(TASKS)}. "
            "For a study, compile its base config"
        )


def check(config: ConfigDict, name: str, slices: int) -> None:
    """Raises ValueError if the mesh or the batch does not fit `slices` slices called `name`."""
    if slices < 1:
        raise ValueError(f"slices={slices}: expected at least 1")
    check_global_batch(config.train.batch_size, AbstractMesh(_axes(config, name, slices), AXES))


def _axes(config, name, slices):
    """Returns the sizes of the mesh's axes, without making devices."""
    axes = dict(config.mesh) | ({"slices": slices} if config.mesh.slices == -1 else {})
    return resolve_axes(**axes, num_devices=slices * chips_of(name))


def largest_batch(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost:
    """Returns the cost of the largest batch that fits, in whole images per chip (of 1 per chip if even that does not fit).

    Tries 1, 4, 16, ... images per chip until the compiler refuses, then searches between the largest that fits and the
    smallest that was refused. Prints each result.
    """
    config, chips = config.copy_and_resolve_references(), slices * chips_of(name)

    def cost_of(images):
        config.train.batch_size = images * chips
        cost = measure(config, name, slices, machine_code=machine_code)
        print(f"{images} images per chip: {_outcome(cost.memory)}", flush=True)
        return cost

    fits = cost_of(1)
    if not fits.memory.fits:
        return fits
    while (refused := cost_of(4 * fits.batch // chips)).memory.fits:
        fits = refused
    tries = itertools.count()
    while (between := (refused.batch - fits.batch) // chips) > 1:
        # Memory grows nearly linearly, so interpolation is fast; every third try bisects, so that the search ends.
        more = between // 2 if next(tries) % 3 == 2 else _room(fits.memory, refused.memory, between)
        cost = cost_of(fits.batch // chips + min(max(more, 1), between - 1))
        fits, refused = (cost, refused) if cost.memory.fits else (fits, cost)
    return fits


def _room(fits: Memory, refused: Memory, images: int) -> int:
    """Returns how many of the `images` between `fits` and `refused` would fit if memory grew linearly."""
    return images * (fits.available - fits.total) // max(refused.total - fits.total, 1)


def changes_using_less(config: ConfigDict, name: str, slices: int = 1) -> Iterator[dict[str, str | int]]:
    """Yields fields and values that reduce the memory of a refused step, the fastest first."""
    _, data, fsdp = _axes(config, name, slices)
    for options in options_using_less(MemoryOptions(config.model.remat, fsdp), data * fsdp):
        change: dict[str, str | int] = {"model.remat": options.remat} if options.remat != config.model.remat else {}
        if options.fsdp != fsdp:
            change["mesh.fsdp"] = options.fsdp
            if config.mesh.data != -1:
                change["mesh.data"] = -1
        yield change


def first_that_fits(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost | None:
    """Returns the cost of the first of `changes_using_less` that fits, or None if none does; prints each result."""
    for change in changes_using_less(config, name, slices):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(change)
        cost = measure(other, name, slices, machine_code=machine_code)
        print(_outcome_line(change, cost.memory), flush=True)
        if cost.memory.fits:
            return cost
    return None


def _outcome_line(given: Mapping[str, str | int], memory: Memory) -> str:
    return " ".join(f"--config.{field}={value}" for field, value in given.items()) + f": {_outcome(memory)}"


def _outcome(memory: Memory) -> str:
    needed = f"{memory.total / 2**30:.2f} GiB of {memory.available / 2**30:.2f}"
    return f"fits, {needed}" if memory.fits else f"needs {needed}, does not fit"


def print_cost(
    config: ConfigDict, name: str, slices: int = 1, *, fit: bool = False, machine_code: bool = False
) -> None:
    """Prints the cost of the config's batch, or of the largest one with `fit`; if refused, the first change that fits."""
    cost = (largest_batch if fit else measure)(config, name, slices, machine_code=machine_code)
    print(describe(cost), flush=True)
    if cost.memory.fits:
        return
    config.train.batch_size = cost.batch
    given = {"model.remat": config.model.remat, "mesh.fsdp": config.mesh.fsdp}
    print(f"\nchanges that need less memory, the fastest first:\n{_outcome_line(given, cost.memory)}", flush=True)
    if found := first_that_fits(config, name, slices, machine_code=machine_code):
        print(f"\n{describe(found)}")
    else:
        print("nothing fits: use fewer images per chip (--fit finds how many), or chips with more memory")


def abstract_step(config: ConfigDict, mesh: Mesh) -> tuple[jax.stages.Wrapped, tuple]:
    """Returns the jitted training step of the config's task, and its arguments as shapes with shardings."""
    task = TASKS[config.task].abstract(config, IMAGENET_TRAIN_IMAGES)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(task.init, key, task.initial)
    rows = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.train.batch_size, *sample.shape), sample.dtype, sharding=rows)
        for name, sample in task.inputs.items()
    }
    arguments = (
        abstract(state, state_shardings(state, mesh, config.optim.offload)),
        abstract(task.frozen, shardings_for(task.frozen, mesh)),
        batch,
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh)),
    )
    return jit_step(task.step, state, task.frozen, mesh, offload=config.optim.offload), arguments


def main(_):
    if _FIT.value and _BATCH.value is not None:
        raise app.UsageError("--fit finds the batch: leave out --batch")
    config, name = _CONFIG.value, _TOPOLOGY.value
    assert name is not None, "`run` requires the flag"
    check_task(config)
    check_values(config)
    if _BATCH.value is not None:
        config.train.batch_size = _BATCH.value
    print_cost(config, name, _SLICES.value, fit=_FIT.value, machine_code=_MACHINE_CODE.value)


def run() -> None:
    """Runs the command line. Prints errors that the user can fix as one message, without a traceback."""
    try:
        app.run(main, flags_parser=functools.partial(parse_flags, required=["topology"]))
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    run()
