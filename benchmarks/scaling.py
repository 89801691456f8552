"""Table and plot of the bytes that a chip sends per step on 8 to 4,096 chips, and of the images per chip that hide them.

    python benchmarks/scaling.py --config=configs/l64.py --chip=v5e --gflop=340

`--gflop` is the arithmetic of a step per image, as `tools.aot_compile` prints it. Computed by the closed form in
`softvq_jax.aot.scaling`, which tests compare with a compiled program; not measured.
"""

import argparse
import functools
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from softvq_jax.aot.chips import CHIPS, Chip
from softvq_jax.aot.scaling import Mesh, Sent, Weights, bytes_sent, count_weights, least_images_per_chip
from softvq_jax.aot.step_cost import IMAGENET_TRAIN_IMAGES
from softvq_jax.parallel.mesh import AXES
from softvq_jax.parallel.sharding import shardings_for
from softvq_jax.train.tasks import TASKS

FROZEN_PASSES = {"teacher": 1, "lpips": 3, "trunk": 3}  # forward and backward passes through each network per step
CHIP_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Networks(NamedTuple):
    """Shapes of the networks of a training step: the trained parameters, and the frozen networks by name."""

    params: Any
    frozen: Mapping[str, Any]


def networks_of(config: ConfigDict) -> Networks:
    """Returns the shapes of a config's networks, without making weights."""
    task = TASKS[config.task].abstract(config, IMAGENET_TRAIN_IMAGES)
    state = jax.eval_shape(task.init, jax.eval_shape(lambda: jax.random.key(0)), task.initial)
    return Networks(task.parameters(state), task.frozen)


def weights_of(networks: Networks, fsdp: int) -> Weights:
    """Returns the sizes of the weights that a step communicates when the path rules shard them over `fsdp` chips."""
    mesh = AbstractMesh((1, 1, fsdp), AXES, axis_types=(AxisType.Auto,) * 3)
    frozen = {name: count_weights(net, shardings_for(net, mesh)).sharded for name, net in networks.frozen.items()}
    trained = count_weights(networks.params, shardings_for(networks.params, mesh))
    return trained._replace(frozen=sum(FROZEN_PASSES[name] * size for name, size in frozen.items()))


def meshes(chips: int, chip: Chip) -> dict[str, Mesh]:
    """Returns the compared meshes: parameters replicated, sharded over 16 chips, and sharded over a whole slice.

    There are several slices if `chips` is more than one slice holds.
    """
    pod = 1
    for side in chip.pod:
        pod *= side
    slices = max(1, chips // pod)
    inside = chips // slices
    sixteen = min(16, inside)
    return {
        "data": Mesh(slices, inside, 1),
        "data x fsdp=16": Mesh(slices, inside // sixteen, sixteen),
        "fsdp": Mesh(slices, 1, inside),
    }


def rows(networks: Networks, chip: Chip, gflop: float) -> Iterator[tuple[int, str, Sent, float]]:
    """Yields `(chips, mesh name, bytes sent, images per chip from which arithmetic takes longer than communication)`."""
    by_fsdp = functools.cache(functools.partial(weights_of, networks))
    for chips in CHIP_COUNTS:
        for name, mesh in meshes(chips, chip).items():
            weights = by_fsdp(max(mesh.fsdp, 2))
            sent = bytes_sent(weights, mesh)
            yield chips, name, sent, least_images_per_chip(weights, mesh, chip, gflop * 1e9)


def table(found) -> str:
    """Returns the rows in Markdown."""
    lines = [
        "| chips | mesh | sent inside a slice | sent between slices | least images per chip |",
        "|---|---|---|---|---|",
    ]
    for chips, name, sent, images in found:
        inside, between = sent.inside_slice / 2**30, sent.between_slices / 2**30
        lines.append(f"| {chips:,} | {name} | {inside:.2f} GiB | {between:.2f} GiB | {images:.1f} |")
    return "\n".join(lines)


def plot(found, path: pathlib.Path, title: str) -> None:
    """Plots bytes sent and least images per chip over the number of chips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for name in dict.fromkeys(row[1] for row in found):
        points = [row for row in found if row[1] == name]
        chips = [row[0] for row in points]
        axes[0].plot(chips, [(row[2].inside_slice + row[2].between_slices) / 2**30 for row in points], "o-", label=name)
        axes[1].plot(chips, [row[3] for row in points], "o-", label=name)
    for axis, label in zip(axes, ("GiB sent per chip and step", "least images per chip"), strict=True):
        axis.set(xscale="log", xlabel="chips", ylabel=label, ylim=(0, None))
        axis.set_xticks(CHIP_COUNTS, [f"{count:,}" for count in CHIP_COUNTS], rotation=45)
        axis.minorticks_off()
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/l64.py")
    parser.add_argument("--chip", default="v5e", choices=CHIPS)
    parser.add_argument("--gflop", type=float, required=True, help="GFLOP of a step per image")
    parser.add_argument("--plot", type=pathlib.Path, default="docs/scaling.png")
    args = parser.parse_args()
    networks = networks_of(runpy.run_path(args.config)["get_config"]())
    found = list(rows(networks, CHIPS[args.chip], args.gflop))
    print(table(found))
    plot(found, args.plot, f"{pathlib.Path(args.config).stem} on {args.chip}, computed by the closed form")


if __name__ == "__main__":
    main()
