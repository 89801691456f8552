"""The tool with a fake compiler, for which memory grows with the images and with the activations that are kept.

The real compiler is tested in tests/aot/step_test.py.
"""

import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from configs import b64
from configs.studies import bottlenecks
from softvq_jax.aot.roofline import Roofline
from softvq_jax.aot.step_cost import Memory, StepCost
from softvq_jax.parallel.mesh import resolve_axes
from softvq_jax.tools import aot_compile

ROOT = pathlib.Path(__file__).parents[2]
KEPT = {"none": 1.0, "dots": 0.5, "attention": 0.375, "full": 0.25}  # GiB per image on a v5e chip of 16
STATE = 12.0  # GiB, sharded over fsdp


@pytest.fixture
def compiled(monkeypatch):
    """The configs that were compiled, as (remat, data, fsdp, images a chip)."""
    tried = []

    def measure(config: ConfigDict, name: str, slices: int = 1, *, machine_code: bool = False) -> StepCost:
        chips = slices * aot_compile.chips_of(name)
        aot_compile.check(config, name, slices)
        _, data, fsdp = resolve_axes(slices, config.mesh.data, config.mesh.fsdp, chips)
        images = config.train.batch_size // chips
        tried.append((config.model.remat, data, fsdp, images))
        total = int(2**30 * (STATE / fsdp + KEPT[config.model.remat] * images))
        fits = total <= 16 * 2**30
        costs = Roofline(compute=1.0, hbm=1.0, ici=0.0, dcn=0.0) if fits else None
        memory = Memory(0, 0, total, 16 * 2**30, fits)
        return StepCost(name, {"fsdp": fsdp}, chips, config.train.batch_size, memory, 1e12, {}, costs)

    monkeypatch.setattr(aot_compile, "measure", measure)
    return tried


def config_of(images_per_chip: int, chips: int = 256, **mesh: int) -> ConfigDict:
    config = b64.get_config()
    config.mesh.update(mesh)
    config.train.batch_size = images_per_chip * chips
    return config


def test_a_step_that_does_not_fit_is_printed_with_changes_that_fit(compiled, capsys):
    aot_compile.print_cost(config_of(16), "v5e:16x16")
    assert compiled == [("none", 256, 1, 16), ("none", 16, 16, 16), ("dots", 256, 1, 16), ("dots", 16, 16, 16)]
    refused, tried, found = capsys.readouterr().out.split("\n\n")
    assert "total 28.00 GiB of 16.00 (175 %)" in refused and refused.endswith("does not fit")
    assert tried.splitlines()[1:] == [
        "--config.model.remat=none --config.mesh.fsdp=1: needs 28.00 GiB of 16.00, does not fit",
        "--config.mesh.fsdp=16: needs 16.75 GiB of 16.00, does not fit",
        "--config.model.remat=dots: needs 20.00 GiB of 16.00, does not fit",
        "--config.model.remat=dots --config.mesh.fsdp=16: fits, 8.75 GiB of 16.00",
    ]
    assert "total 8.75 GiB" in found and "throughput" in found


def test_a_step_that_fits_is_compiled_once(compiled, capsys):
    aot_compile.print_cost(config_of(15, fsdp=16), "v5e:16x16")
    assert len(compiled) == 1 and "not fit" not in capsys.readouterr().out


def test_nothing_fits(compiled, capsys):
    """On a small slice with a given mesh, sharding is tried over all of its 8 chips."""
    aot_compile.print_cost(config_of(80, chips=8, data=4, fsdp=2), "v5e:2x4")
    assert compiled == [(remat, 8 // fsdp, fsdp, 80) for remat in KEPT for fsdp in (2, 8)]
    out = capsys.readouterr().out
    assert "--config.mesh.fsdp=8 --config.mesh.data=-1: needs" in out and "nothing fits: use fewer images" in out


@pytest.mark.parametrize(
    ("remat", "fsdp", "most"), [("none", 16, 15), ("none", 1, 4), ("dots", 16, 30), ("full", 1, 16)]
)
def test_the_largest_batch_is_found_to_the_image_in_few_compilations(compiled, remat, fsdp, most):
    config = config_of(1, fsdp=fsdp)
    config.model.remat = remat
    cost = aot_compile.largest_batch(config, "v5e:16x16")
    assert cost.memory.fits and cost.batch == 256 * most
    assert len(compiled) == len(set(compiled)) <= 6


def test_the_largest_batch_where_memory_jumps(compiled, monkeypatch):
    """20 images need little more memory than one, and 21 far too much, so interpolation alone would be slow."""
    measure = aot_compile.measure

    def jumps(config, *args, **kwargs):
        cost = measure(config, *args, **kwargs)
        images = cost.batch // 256
        memory = cost.memory._replace(total=(1 if images <= 20 else 10**6) * 2**30 + images, fits=images <= 20)
        return cost._replace(memory=memory)

    monkeypatch.setattr(aot_compile, "measure", jumps)
    assert aot_compile.largest_batch(config_of(1), "v5e:16x16").batch == 256 * 20
    assert len(compiled) <= 15


def test_one_image_a_chip_can_be_too_large(compiled, monkeypatch, capsys):
    monkeypatch.setitem(KEPT, "none", 5.0)
    aot_compile.print_cost(config_of(16), "v5e:16x16", fit=True)
    assert compiled == [("none", 256, 1, 1), ("none", 16, 16, 1)]
    assert "--config.mesh.fsdp=16: fits" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "slices", "message"), [
    ({}, 0, "slices=0: expected at least 1"),
    ({"train.batch_size": 100}, 1, "a global batch of 100 does not divide among 256 devices .*: use 256"),
    ({"mesh.fsdp": 3}, 1, "fsdp=3 does not multiply to the 256 devices"),
])  # fmt: skip
def test_invalid_arguments_are_refused_before_a_process_starts(change, slices, message, monkeypatch):
    monkeypatch.setattr(aot_compile.multiprocessing, "get_context", None)
    config = config_of(16)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        aot_compile.measure(config, "v5e:16x16", slices)


@pytest.mark.parametrize(("flags", "message"), [
    (["--config=configs/none.py"], "configs/none.py"),
    (["--config", "configs/b64.py", "--config.mesh.fsdpp=2"], "'mesh.fsdpp'; the nearest is --config.mesh.fsdp"),
])  # fmt: skip
def test_bad_command_lines(flags, message):
    command = [sys.executable, "-m", "softvq_jax.tools.aot_compile", "--topology=v5e:16x16", *flags]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 1 and result.stderr.startswith("error: ") and message in result.stderr


def test_a_config_that_has_no_step():
    with pytest.raises(ValueError, match="task is 'study', which has no single training step"):
        aot_compile.check_task(bottlenecks.get_config())
