"""Compiles a config's training step for a TPU slice that is not here, and says what it costs.

    python -m softvq_jax.tools.aot_compile --config=configs/l64.py --topology=v5e:16x16 --batch=4096

Needs the TPU compiler (`pip install 'softvq-jax[aot]'`) and no TPU, weights or data. Waits until the compiler has laid
out the program and its memory; `--machine_code` waits for the rest too, minutes that change no number. Where the step
does not fit, compiles it with parameters divided further and less kept for the backward pass, until it does, and says by
which flags. `--fit` finds the largest batch that fits the slice. Any field of the config can be set:
`--config.mesh.fsdp=16`, `--config.model.remat=dots`.
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
from softvq_jax.aot.memory_saving import Setting, settings
from softvq_jax.aot.step_cost import IMAGENET_TRAIN_IMAGES, Memory, StepCost, analyse, describe, does_not_fit
from softvq_jax.aot.topology import chips_of, get_topology
from softvq_jax.config import check_values
from softvq_jax.config.flags import define_config, parse_flags
from softvq_jax.parallel.mesh import AXES, batch_sharding, check_global_batch, make_mesh, replicated, resolve_axes
from softvq_jax.parallel.sharding import abstract, shardings_for
from softvq_jax.train.compile import jit_step
from softvq_jax.train.tasks import TASKS

_CONFIG = define_config()
_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, as generation:shape, for instance v5e:16x16.")
_SLICES = flags.DEFINE_integer("slices", 1, "How many such slices, joined by the data-centre network.")
_BATCH = flags.DEFINE_integer("batch", None, "Images a step, over all chips; the config's if not given.")
_FIT = flags.DEFINE_bool("fit", False, "Find the largest batch that fits, in whole images a chip.")
_MACHINE_CODE = flags.DEFINE_bool("machine_code", False, "Compile to the very end.")


def measure(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost:
    """Compiles the step of `config` for `slices` TPU slices called `name` and reads its cost.

    Works in a process of its own: without machine code the compiler is killed when all is known.

    Raises:
      ValueError: the name is not known, or the config's mesh or batch does not fit the number of chips.
      RuntimeError: there is no TPU compiler, or it failed.
    """
    check(config, name, slices)
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


def _measure(config: ConfigDict, name: str, slices: int, machine_code: bool) -> StepCost:
    topology = get_topology(name, slices)
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    batch = config.train.batch_size
    check_global_batch(batch, mesh)
    try:
        compiled = (compile_for if machine_code else plan_for)(*abstract_step(config, mesh), mesh)
        return analyse(compiled, topology, mesh, batch)
    except OutOfMemory as error:
        return does_not_fit(error, topology, mesh, batch)


def check_task(config: ConfigDict) -> None:
    """Raises ValueError for a config without a training step of its own, a study's for instance."""
    if config.task not in TASKS:
        raise ValueError(
            f"the config's task is {config.task!r}, which has no one training step; expected one of {', '.join(TASKS)}. "
            "Of a study, compile the config that it starts from"
        )


def check(config: ConfigDict, name: str, slices: int) -> None:
    """Raises ValueError for a mesh or a batch that cannot be had of `slices` slices called `name`."""
    if slices < 1:
        raise ValueError(f"slices={slices}: expected at least 1")
    check_global_batch(config.train.batch_size, AbstractMesh(_axes(config, name, slices), AXES))


def _axes(config, name, slices):
    """The sizes of the mesh's axes; the devices, which know in what slices they lie, are not needed for that."""
    axes = dict(config.mesh) | ({"slices": slices} if config.mesh.slices == -1 else {})
    return resolve_axes(**axes, num_devices=slices * chips_of(name))


def largest_batch(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost:
    """The cost of the largest batch that fits, in whole images a chip; of 1 a chip if that does not fit.

    Tries 1, 4, 16, ... images a chip until they are refused; from there on between the most that fit and the least
    that were refused, until these are neighbours. Prints what becomes of each.
    """
    config, chips = config.copy_and_resolve_references(), slices * chips_of(name)

    def of(images):
        config.train.batch_size = images * chips
        cost = measure(config, name, slices, machine_code=machine_code)
        print(f"{images} images a chip: {_outcome(cost.memory)}", flush=True)
        return cost

    fits = of(1)
    if not fits.memory.fits:
        return fits
    while (refused := of(4 * fits.batch // chips)).memory.fits:
        fits = refused
    for tries in itertools.count():
        least, most = fits.batch // chips, refused.batch // chips
        if most == least + 1:
            return fits
        # Memory grows nearly in proportion: what both need says how many fit. Where it does not, halving still ends.
        more = (most - least) // 2 if tries % 3 == 2 else _room(fits.memory, refused.memory, most - least)
        cost = of(min(max(least + more, least + 1), most - 1))
        fits, refused = (cost, refused) if cost.memory.fits else (fits, cost)


def _room(fits: Memory, refused: Memory, images: int) -> int:
    """How many of the `images` that `refused` has more than `fits` would fit beside it, were each as large."""
    return images * (fits.available - fits.total) // max(refused.total - fits.total, 1)


def changes_that_need_less(config: ConfigDict, name: str, slices: int = 1) -> Iterator[dict[str, str | int]]:
    """Fields, with values, that make a step which was refused need less memory; what costs least comes first."""
    _, data, fsdp = _axes(config, name, slices)
    for setting in settings(Setting(config.model.remat, fsdp), data * fsdp):
        change = {"model.remat": setting.remat} if setting.remat != config.model.remat else {}
        if setting.fsdp != fsdp:
            change["mesh.fsdp"] = setting.fsdp
            if config.mesh.data != -1:
                change["mesh.data"] = -1
        yield change


def first_that_fits(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost | None:
    """The cost of the first of `changes_that_need_less` that the compiler accepts; prints what becomes of each."""
    for change in changes_that_need_less(config, name, slices):
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(change)
        cost = measure(other, name, slices, machine_code=machine_code)
        print(_verdict(change, cost.memory), flush=True)
        if cost.memory.fits:
            return cost
    return None


def _verdict(given: Mapping[str, str | int], memory: Memory) -> str:
    return " ".join(f"--config.{field}={value}" for field, value in given.items()) + f": {_outcome(memory)}"


def _outcome(memory: Memory) -> str:
    needed = f"{memory.total / 2**30:.2f} GiB of {memory.available / 2**30:.2f}"
    return f"fits, {needed}" if memory.fits else f"needs {needed}, does not fit"


def answer(config: ConfigDict, name: str, slices: int = 1, *, fit: bool = False, machine_code: bool = False) -> None:
    """Prints the cost of the config's batch, or with `fit` of the largest; if it is refused, of what does fit."""
    cost = (largest_batch if fit else measure)(config, name, slices, machine_code=machine_code)
    print(describe(cost), flush=True)
    if cost.memory.fits:
        return
    config.train.batch_size = cost.batch
    given = {"model.remat": config.model.remat, "mesh.fsdp": config.mesh.fsdp}
    print(f"\nWhat needs less, the cheapest first:\n{_verdict(given, cost.memory)}", flush=True)
    if found := first_that_fits(config, name, slices, machine_code=machine_code):
        print(f"\n{describe(found)}")
    else:
        print("nothing fits: take fewer images a chip (--fit finds how many), or chips with more memory")


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


def main(_):
    if _FIT.value and _BATCH.value is not None:
        raise app.UsageError("--fit finds the batch: leave out --batch")
    config = _CONFIG.value
    check_task(config)
    check_values(config)
    if _BATCH.value is not None:
        config.train.batch_size = _BATCH.value
    answer(config, _TOPOLOGY.value, _SLICES.value, fit=_FIT.value, machine_code=_MACHINE_CODE.value)


def run() -> None:
    """The command line; errors that a person can act on end in their message alone."""
    try:
        app.run(main, flags_parser=functools.partial(parse_flags, required=["topology"]))
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    run()
