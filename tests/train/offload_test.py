"""Moments and averages in host memory: the same steps, checkpoints that fit both, and less memory on the chips."""

import chex
import jax
import numpy as np
import pytest

from softvq_jax.parallel.mesh import global_batch, make_mesh
from softvq_jax.parallel.sharding import abstract
from softvq_jax.train import loop, offload, preemption
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.compile import jit_step
from softvq_jax.train.tasks import TASKS
from tests import small_generators
from tests.train.conftest import tiny


@pytest.fixture(autouse=True)
def offload_all(monkeypatch):
    """Small arrays too, because all arrays of the tests' networks are small."""
    monkeypatch.setattr(offload, "_MIN_SIZE", 1)


def kinds(state):
    """Memory kinds by path; None is the device's."""
    default = jax.devices()[0].default_memory().kind
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.memory_kind for path, leaf in flat}
    return {name: None if kind == default else kind for name, kind in names.items()}


def steps(optimizer, offloaded):
    config = small_generators.config("sit")
    config.optim.update(optimizer=optimizer, accumulate=2)
    task = small_generators.abstract_task(config)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = small_generators.state_of(task)
        state = jax.device_put(state, offload.state_shardings(state, mesh, offloaded))
        step = jit_step(task.step, state, {}, mesh, offload=offloaded)
        for _ in range(2):
            state, metrics = step(state, {}, global_batch(small_generators.batch(task), mesh), jax.random.key(1))
    return state, metrics


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.heavy)])
def test_steps_are_the_same_to_the_bit(optimizer):
    (state, metrics), (expected, theirs) = (steps(optimizer, offloaded) for offloaded in (True, False))
    chex.assert_trees_all_equal(jax.device_get((state, metrics)), jax.device_get((expected, theirs)))
    assert not any(kinds(expected).values())
    for name, kind in kinds(state).items():
        assert (kind == "pinned_host") == (name.startswith("ema/") or "/opt/" in name), name


@pytest.mark.parametrize("saved", [True, False])
def test_a_checkpoint_is_restored_to_either_memory(tmp_path, saved):
    mesh = make_mesh(devices=jax.devices()[:1])
    params = {"kernel": np.arange(6.0, dtype=np.float32)}
    state = {"step": np.int32(3), "net": {"params": params, "opt": {"mu": params}}, "ema": params}
    with jax.set_mesh(mesh):
        placed = jax.device_put(state, offload.state_shardings(state, mesh, saved))
        checkpoints = Checkpoints(tmp_path, keep=1, keep_every_steps=0)
        checkpoints.save(placed, {"step": 3})
        checkpoints.wait()
        for offloaded in (True, False):
            restored = checkpoints.restore(abstract(state, offload.state_shardings(state, mesh, offloaded)))
            assert restored is not None
            chex.assert_trees_all_equal(jax.device_get(restored.state), state)
            in_host = {name for name, kind in kinds(restored.state).items() if kind == "pinned_host"}
            assert in_host == ({"net/opt/mu/kernel", "ema/kernel"} if offloaded else set())
        checkpoints.close()


def run(workdir, **optim):
    config = tiny()
    config.train.num_steps = 4
    config.optim.update(optim)
    return loop.Run(config, workdir, TASKS["tokenizer"])


@pytest.mark.heavy  # five small runs
def test_runs_with_and_without_it_continue_each_other(tmp_path, preempt_at):
    """A run without it, one with it, and one that has it for two steps only."""
    results = {name: run(tmp_path / name, offload=name == "with").train() for name in ("without", "with")}
    with preempt_at(2), pytest.raises(preemption.Preempted):
        run(tmp_path / "both", offload=True).train()
    results["both"] = run(tmp_path / "both").train()
    assert results["with"]["eval_psnr"] == results["both"]["eval_psnr"] == results["without"]["eval_psnr"]
    states = []
    for name in results:
        for offloaded in (True, False):
            again = run(tmp_path / name, offload=offloaded)
            with jax.set_mesh(again.mesh):
                state, record = again._restore_or_init()
            assert record["step"] == 4 and any(kinds(state).values()) == offloaded
            states.append(jax.device_get(state))
    for state in states[1:]:
        chex.assert_trees_all_equal(state, states[0])


def test_devices_without_host_memory_are_refused(monkeypatch):
    class Device:
        device_kind = "Toy"

        def addressable_memories(self):
            return [jax.devices()[0].default_memory()]

    class Devices:
        local_devices = (Device(),)

    with pytest.raises(
        ValueError, match=r"optim\.offload=True needs pinned_host memory, which Toy devices with jax .* do"
    ):
        offload.check_devices(Devices())
