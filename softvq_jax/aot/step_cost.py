"""The cost of a compiled training step: memory, arithmetic, traffic, and least time."""

from typing import NamedTuple

from jax.sharding import Mesh

from softvq_jax.aot import hlo
from softvq_jax.aot.collectives import Total, by_kind, collectives
from softvq_jax.aot.compile import Compiled, OutOfMemory
from softvq_jax.aot.roofline import Roofline, roofline
from softvq_jax.aot.topology import Topology
from softvq_jax.aot.traffic import hbm_traffic

IMAGENET_TRAIN_IMAGES = 1_281_167
EPOCHS = 50


class Memory(NamedTuple):
    """Bytes of one chip's main memory; `fits` is whether the compiler accepted the program.

    If it did, `total` is the sum of the compiler's statistics, which can exceed the real size. If it did not, `arguments`
    and `temporaries` are unknown (0).
    """

    arguments: int
    temporaries: int
    total: int
    available: int
    fits: bool

    @property
    def share(self) -> float:
        return self.total / self.available


class StepCost(NamedTuple):
    """The cost of one step of `batch` images on `chips` chips."""

    topology: str
    mesh: dict[str, int]
    chips: int
    batch: int
    memory: Memory
    flops: float
    collectives: dict[str, Total]
    roofline: Roofline | None
    """None if the step does not fit."""

    @property
    def images_per_second(self) -> float:
        """Upper bound of images per second, if all resources of the roofline work at the same time."""
        if self.roofline is None:
            raise ValueError("the step does not fit, so that it has no rate")
        return self.batch / self.roofline.overlapped

    @property
    def hours(self) -> float:
        """Lower bound of the hours for 50 epochs of ImageNet."""
        return EPOCHS * IMAGENET_TRAIN_IMAGES / self.images_per_second / 3600


def analyze(compiled: Compiled, topology: Topology, mesh: Mesh, batch: int) -> StepCost:
    """Returns the cost of a program compiled for `mesh`, a mesh of the devices of `topology`."""
    program = hlo.parse(compiled.text)
    found, devices = collectives(program), list(mesh.devices.flat)
    bounds = roofline(
        topology.chip, topology.shape, devices, compiled.flops / len(devices), hbm_traffic(program), found
    )
    total = compiled.arguments + compiled.temporaries
    memory = Memory(compiled.arguments, compiled.temporaries, total, topology.chip.hbm, fits=True)
    return StepCost(
        topology.name, dict(mesh.shape), len(devices), batch, memory, compiled.flops, by_kind(found), bounds
    )


def does_not_fit(error: OutOfMemory, topology: Topology, mesh: Mesh, batch: int) -> StepCost:
    """Returns the cost of a program that the compiler refused."""
    memory = Memory(0, 0, error.needed, error.available, fits=False)
    return StepCost(topology.name, dict(mesh.shape), mesh.size, batch, memory, error.flops, {}, None)


def describe(cost: StepCost) -> str:
    """Returns the cost as lines of text."""
    axes = ", ".join(f"{axis}={size}" for axis, size in cost.mesh.items())
    lines = [
        f"{cost.topology}: {cost.chips} chips ({axes}), {cost.batch} images a step",
        _memory_line(cost.memory),
        f"arithmetic   {cost.flops / 1e12:,.1f} TFLOP a step, {cost.flops / cost.chips / 1e12:,.2f} a chip, "
        f"{cost.flops / cost.batch / 1e9:,.1f} GFLOP an image",
    ]
    if cost.roofline is None:
        return "\n".join([*lines, "does not fit"])
    lines += [
        f"{kind:12s} {total.calls:,} calls, {total.bytes / 2**20:,.1f} MiB; a chip sends {total.sent / 2**20:,.1f} MiB"
        for kind, total in cost.collectives.items()
    ] or ["no collectives"]
    bounds = cost.roofline
    return "\n".join(
        [
            *lines,
            "step at best " + ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in bounds._asdict().items()),
            f"             {1e3 * bounds.overlapped:.1f} ms if they overlap (bound by {bounds.bound}), "
            f"{1e3 * bounds.serial:.1f} ms if they never do",
            f"throughput   {cost.images_per_second:,.0f} images/s at best; {EPOCHS} epochs of ImageNet in "
            f"{cost.hours:,.1f} h (no overlap: {cost.hours * bounds.serial / bounds.overlapped:,.1f} h)",
        ]
    )


def _memory_line(memory: Memory) -> str:
    parts = f"arguments {memory.arguments / 2**30:.2f}, temporaries {memory.temporaries / 2**30:.2f}, "
    known = parts if memory.fits else ""
    return (
        f"HBM a chip   {known}total {memory.total / 2**30:.2f} GiB of {memory.available / 2**30:.2f} "
        f"({100 * memory.share:.0f} %)"
    )
