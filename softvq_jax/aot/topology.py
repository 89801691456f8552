"""TPU slices by name, as the TPU compiler describes them on a machine without TPUs."""

import math
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from softvq_jax.aot.chips import CHIPS, Chip

USUAL_SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: (
        "1x1x1",
        "2x2x1",
        "2x2x2",
        "2x2x4",
        "2x4x4",
        "4x4x4",
        "4x4x8",
        "4x8x8",
        "8x8x8",
        "8x8x16",
        "8x16x16",
        "16x16x16",
    ),
}


class Topology(NamedTuple):
    """`slices` equal slices of `shape` chips."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int
    devices: list[jax.Device]  # pyright: ignore[reportInvalidTypeForm] (jaxlib has no stubs)

    @property
    def chips_per_slice(self) -> int:
        return len(self.devices) // self.slices


def get_topology(name: str, slices: int = 1) -> Topology:
    """Returns the slice called `name`, for instance `v5e:16x16`. Its devices can be compiled for, but not run.

    Raises:
      ValueError: the name is unknown; the message lists known names.
      RuntimeError: the TPU compiler (package `libtpu`) is not installed.
    """
    chip, shape = parse_name(name)
    _prepare_libtpu()
    # The two cores of a v4 chip are one device.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    if max(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    try:
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu has no topology {name!r} ({error}). {known_names()}") from error
    except RuntimeError as error:
        raise RuntimeError(
            "compiling for TPUs needs the TPU compiler: pip install 'softvq-jax[aot]' (package libtpu)"
        ) from error
    return Topology(name, chip, shape, slices, list(devices))


def parse_name(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Returns the chip and shape of a name such as `v5e:16x16`; raises ValueError, listing known names, for others."""
    family, _, sizes = name.partition(":")
    chip = CHIPS.get(family)
    shape = tuple(int(size) for size in sizes.split("x") if size.isdigit())
    if (
        chip is None
        or "x".join(map(str, shape)) != sizes
        or len(shape) != len(chip.pod)
        or any(size > most for size, most in zip(sorted(shape), chip.pod, strict=True))
    ):
        raise ValueError(f"unknown topology {name!r}. {known_names()}")
    return chip, shape


def chips_of(name: str) -> int:
    """Returns the number of chips of a slice; raises ValueError, listing known names, for unknown ones."""
    return math.prod(parse_name(name)[1])


def known_names() -> str:
    """Returns a sentence that lists the usual slices of every generation."""
    families: dict[int, list[str]] = {}
    for chip in CHIPS.values():
        families.setdefault(len(chip.pod), []).append(chip.name)
    known = (f"{' and '.join(names)}: {', '.join(USUAL_SHAPES[axes])}" for axes, names in families.items())
    return f"Known are generation:shape with, for {'; for '.join(known)}"


def _prepare_libtpu() -> None:
    # libtpu allows one process at a time, to protect the hardware, which is not used here.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Without these, libtpu looks for a TPU host and logs many errors on a machine without one.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any valid name; it is not used
