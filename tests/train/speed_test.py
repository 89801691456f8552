"""Times of steps and what they wait for, and the metrics computed from them."""

import logging
import threading
import types

import jax
import jax.numpy as jnp
import pytest

from softvq_jax.aot.flops import matmul_flops
from softvq_jax.aot.peaks import peak_flops
from softvq_jax.train import speed
from softvq_jax.train.first_start import FirstStart, first_start
from softvq_jax.train.progress import progress_line
from softvq_jax.train.step_clock import EVALUATION, StepClock


class World:
    """A clock that is set by hand, and a device that takes the time it is told."""

    def __init__(self):
        self.time = 0.0
        self.clock = StepClock(now=lambda: self.time)

    def step(self, number, seconds, release=None):
        """Queues a step; without `release`, it ends at once in the test's time."""
        world = self

        class Result:
            def block_until_ready(self):
                if release is not None:
                    release.wait(10)
                world.time += seconds
                return self

        self.clock.call(number, lambda: ("state", {"loss": Result()}))
        if release is None:
            with self.clock._done:
                self.clock._done.wait_for(lambda: self.clock._waiting == 0)

    def does(self, activity, seconds):
        with self.clock.during(activity):
            self.time += seconds


@pytest.fixture
def world():
    world = World()
    yield world
    world.clock.close()


def test_idle_time_is_what_the_host_did_meanwhile(world):
    for number in range(1, 4):
        world.step(number, 2.0)
        world.does("data", 0.5)
    world.does("save", 3.0)
    world.time += 0.25
    world.does(EVALUATION, 100.0)
    world.step(4, 2.0)
    interval = world.clock.take_interval()
    assert (interval.steps, interval.busy) == (4, 8.0)
    assert interval.idle == {"data": 1.5, "save": 3.0, "other": 0.25}
    assert interval.seconds == 8.0 + 1.5 + 3.0 + 0.25
    assert world.clock.take_interval()[:1] + world.clock.take_interval()[2:] == (0, 0.0, {})


def test_a_wait_while_the_device_works_costs_nothing(world):
    release = threading.Event()
    world.step(1, 3.0, release)
    world.does("data", 5.0)  # the device ends 3 s later, at 8 s
    release.set()
    interval = world.clock.take_interval()
    assert interval.busy == 8.0 and interval.idle == {}


@pytest.mark.parametrize(
    ("activity", "says"),
    [("data", "7.0 s waiting for data, 0.5 s on the"), ("save", "saving"), ("device", "on the devices")],
)
def test_a_slow_step_is_named_with_its_reason(world, caplog, activity, says):
    caplog.set_level(logging.WARNING)
    world.time = 100.0
    world.clock.restart()
    for number in range(1, 20):
        world.step(number, 0.5)
    world.does(EVALUATION, 50.0)
    world.step(20, 0.5)
    assert not caplog.messages
    if activity != "device":
        world.does(activity, 7.0)
    world.step(21, 7.5 if activity == "device" else 0.5)
    [message] = caplog.messages
    assert message.startswith("step 21 took 7.5 s, its median is 0.5 s: 7.") and says in message
    world.does("data", 9.0)
    world.step(22, 0.5)
    assert len(caplog.messages) == 1  # too soon after the first
    world.time += 60.0
    world.step(23, 0.5)
    assert caplog.messages[1].startswith("step 23 took 60.5 s") and "; 1 more slow step since" in caplog.messages[1]
    assert "60.0 s on the host" in caplog.messages[1]


DEVICE = types.SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")


def test_metrics_of_speed_and_goodput_over_a_restart(world):
    start, wall = FirstStart("ab", 1000.0), [1000.0]
    options = dict(start=start, batch_size=16, num_devices=4, flops=4 * 197e12, device=DEVICE, now=lambda: wall[0])
    measured = speed.Speed(world.clock, saved={}, **options)
    for number in range(5):
        world.step(number, 3.0)
        world.does("data", 1.0)
    wall[0] += 100.0
    values = measured.measure()
    assert values["images_per_second"] == 5 * 16 / 20 and values["images_per_second_per_chip"] == 1.0
    assert values["mfu"] == pytest.approx(5 / 20)  # one second of peak arithmetic a step
    assert values["data_wait"] == pytest.approx(4 / 20)  # the last wait is before a step that is still to come
    assert values["goodput"] == pytest.approx(15 / 100)
    record = measured.record()

    world.step(6, 40.0)  # not saved: a restart does it again
    wall[0] += 50.0
    again = speed.Speed(StepClock(now=lambda: world.time), saved=record, **options)
    with again:
        assert again.measure()["goodput"] == pytest.approx(15 / 150)
    other = speed.Speed(world.clock, saved=record, **(options | {"start": FirstStart("cd", 1000.0)}))
    assert other.record() == {"busy": {"run": "cd", "seconds": 0.0}}


def test_an_unknown_chip_has_no_mfu_and_is_named(world, caplog):
    caplog.set_level(logging.INFO)
    device = types.SimpleNamespace(device_kind="Abacus 3000", platform="gpu")
    options = dict(start=None, saved={}, batch_size=1, num_devices=1, flops=1.0)
    measured = speed.Speed(world.clock, device=device, **options)
    assert "'Abacus 3000' is unknown" in caplog.text
    world.step(1, 1.0)
    assert measured.measure().keys() == {"images_per_second", "images_per_second_per_chip", "data_wait"}
    assert measured.record() == {}


def test_peaks_by_kind():
    assert [peak_flops(kind) for kind in ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite")] == [
        275e12,
        197e12,
        459e12,
        918e12,
    ]
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-40GB") == 312e12 and peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA L400") is None and peak_flops("cpu") is None


def test_model_flops_leave_recomputation_out():
    def loss(weights, x, wrap):
        block = wrap(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w.T))
        return jnp.sum(jax.lax.scan(lambda x, w: (block(x, w), None), x, weights)[0])

    shapes = jnp.ones((3, 8, 16)), jnp.ones((4, 8))
    plain, saved = (
        jax.make_jaxpr(jax.grad(loss), static_argnums=2)(*shapes, wrap) for wrap in (lambda f: f, jax.checkpoint)
    )
    assert matmul_flops(saved) > matmul_flops(plain) == matmul_flops(saved, recomputed=False)
    assert matmul_flops(plain) == 3 * 6 * 2 * (4 * 8 * 16)  # forward, and two products for each in the backward pass


def test_the_log_line():
    values = {"loss": 0.5, "images_per_second": 100.0, "images_per_second_per_chip": 25.0, "data_wait": 0.031}
    values |= {"mfu": 0.412, "goodput": 0.9, "device_memory_gib": 12.34}
    assert progress_line(10, 20, 100, values) == (
        "step 10/20  loss 0.5  100.0 images/s (25.0 a chip, MFU 41%)  data wait 3%  goodput 90%  12.3 GiB  00:10 left"
    )


def test_the_first_start_is_kept(tmp_path):
    start = first_start(tmp_path, 5.0)
    assert first_start(tmp_path, 9.0) == start and start.time == 5.0 and len(start.id) == 8
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks id or first_start"):
        first_start(tmp_path, 9.0)
