"""Meshes: sizes of the axes, and training steps that do not depend on the mesh or on the number of processes."""

import json

import jax
import numpy as np
import pytest

from softvq_jax.parallel import mesh
from tests import programs


@pytest.mark.parametrize(
    ("axes", "devices", "expected"),
    [
        ((1, -1, 1), 8, (1, 8, 1)),
        ((1, -1, 2), 8, (1, 4, 2)),
        ((1, 1, -1), 8, (1, 1, 8)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((2, 2, -1), 16, (2, 2, 4)),
        ((1, 4, 2), 8, (1, 4, 2)),
    ],
)
def test_axes_fill_the_devices(axes, devices, expected):
    assert mesh.resolve_axes(*axes, devices) == expected


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (
            (1, 3, 2),
            "data=3, fsdp=2 does not multiply to the 8 devices; this does: slices=1, data=4, fsdp=2",
        ),
        ((1, -1, 16), "this does: slices=1, data=1, fsdp=8"),
        ((3, -1, 1), "this does: slices=1, data=8, fsdp=1"),
        ((1, -1, -1), "only one of data and fsdp"),
        ((1, 0, 8), "positive number of devices, or -1"),
    ],
)
def test_axes_that_do_not_fit(axes, says):
    with pytest.raises(ValueError, match=says):
        mesh.resolve_axes(*axes, 8)


def test_suggested_mesh_fits():
    for devices in (1, 6, 8, 12, 256):
        for axes in ((5, -1, 7), (4, -1, 24), (2, 3, 5)):
            try:
                mesh.resolve_axes(*axes, devices)
            except ValueError as error:
                suggestion = str(error).split("this does: ")[1]
                sizes = [int(part.split("=")[1]) for part in suggestion.split(", ")]
                assert mesh.resolve_axes(*sizes, devices) == tuple(sizes)


def test_global_batch_must_divide():
    one = mesh.make_mesh(devices=jax.devices()[:1])
    mesh.check_global_batch(3, one)
    with pytest.raises(ValueError, match=r"global batch of 0 .* use 1"):
        mesh.check_global_batch(0, one)


def test_constraint_without_a_mesh_does_nothing():
    jaxpr = jax.make_jaxpr(mesh.constrain_batch)(np.ones((4, 2)))
    assert not jaxpr.eqns


def _steps(*axes: str, processes: int, devices: int) -> list[dict]:
    outputs = programs.run("vit_steps", *axes, processes=processes, devices=devices)
    return json.loads(outputs[0].splitlines()[-1])


@pytest.mark.heavy  # more than a minute; `generator_step_test` shows eight devices
def test_steps_depend_neither_on_mesh_nor_on_processes():
    [alone] = _steps("1,1,1", processes=1, devices=1)
    spread = _steps("1,8,1", "1,1,8", "1,4,2", "2,2,2", processes=1, devices=8)
    spread += _steps("1,2,4", "2,1,4", processes=2, devices=4)
    assert [run["shard"] for run in spread] == [[2, 64, 256 // fsdp] for fsdp in (1, 8, 2, 2, 4, 4)]
    assert [run["processes"] for run in spread] == [1, 1, 1, 1, 2, 2]
    for run in spread:
        assert run["moment_shard"] == run["shard"]
        np.testing.assert_allclose(run["losses"], alone["losses"], rtol=1e-5)
        np.testing.assert_allclose(run["checksum"], alone["checksum"], rtol=1e-5)


def test_each_process_supplies_the_rows_of_its_devices():
    programs.run("interleaved_rows", processes=2, devices=2)
