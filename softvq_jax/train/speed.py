"""How fast a run is: throughput, use of the chips, memory, wait for data, and goodput.

Goodput is the share of the wall time since the first start of a run in which the devices worked on steps that were kept.
The rest are starts, compilation, evaluations, saves, waits for data, pauses between restarts, and steps that were done
again after a restart. The time of the steps is in the checkpoints, so that it ends at the one that a run resumes from.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from softvq_jax.aot.flops import matmul_flops
from softvq_jax.aot.peaks import peak_flops
from softvq_jax.train.first_start import FirstStart
from softvq_jax.train.step_clock import StepClock

RECORD = "busy"  # key of the record of a checkpoint
TIMES = ("images_per_second", "images_per_second_per_chip", "mfu", "data_wait", "goodput", "device_memory_gib")
"""Names of the metrics here: those that differ from run to run."""


class Speed:
    """Computes the metrics of speed from the times of a `StepClock`.

    Args:
      clock: of the steps; closed with this object.
      start: the first start of the run; None in processes that log nothing.
      saved: the record of the checkpoint that the run resumes from.
      batch_size: global batch.
      num_devices: of the mesh.
      flops: arithmetic of a step over all devices (`model_flops`); None if unknown.
      device: one of the devices, all alike.
      now: the wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        clock: StepClock,
        *,
        start: FirstStart | None,
        saved: Mapping[str, Any],
        batch_size: int,
        num_devices: int,
        flops: float | None,
        device: Any,
        now: Callable[[], float] = time.time,
    ):
        self.clock, self._start, self._now = clock, start, now
        self._batch_size, self._num_devices = batch_size, num_devices
        self._peak, self._flops = peak_flops(device.device_kind), flops
        before = saved.get(RECORD, {})
        self._busy = before["seconds"] if start is not None and before.get("run") == start.id else 0.0
        if self._peak is None and device.platform != "cpu":
            logging.info("no MFU: the peak of %r is unknown (aot/peaks.py)", device.device_kind)

    def __enter__(self) -> "Speed":
        return self

    def __exit__(self, *_) -> None:
        self.clock.close()

    def measure(self) -> dict[str, float]:
        """Returns the metrics of the steps since the last call, which must all be finished; see `TIMES`.

        `mfu` is absent for devices of unknown peak, `device_memory_gib` where the backend does not report memory.
        """
        interval = self.clock.take_interval()
        self._busy += interval.busy
        rate = interval.steps * self._batch_size / interval.seconds
        values = {"images_per_second": rate, "images_per_second_per_chip": rate / self._num_devices}
        if self._flops is not None and self._peak is not None:
            done = interval.steps * self._flops / interval.seconds
            values["mfu"] = done / (self._num_devices * self._peak)
        values["data_wait"] = interval.idle.get("data", 0.0) / interval.seconds
        if self._start is not None:
            values["goodput"] = min(1.0, self._busy / max(self._now() - self._start.time, 1e-9))
        memory = [stats["peak_bytes_in_use"] for stats in _memory() if "peak_bytes_in_use" in stats]
        return values | ({"device_memory_gib": max(memory) / 2**30} if memory else {})

    def record(self) -> dict[str, Any]:
        """Returns the entry of a checkpoint's record from which a restarted run goes on."""
        return {} if self._start is None else {RECORD: {"run": self._start.id, "seconds": self._busy}}


def model_flops(traced: jax.stages.Traced) -> float | None:
    """Returns the matrix arithmetic of a traced step over all devices, without recomputation; None if it is unknown."""
    try:
        return matmul_flops(traced.jaxpr, recomputed=False)
    except ValueError as error:
        logging.info("no MFU: %s", error)
        return None


def in_words(values: Mapping[str, float]) -> str:
    """Returns the metrics of speed for a line of the log."""
    rate, per_chip = values["images_per_second"], values.get("images_per_second_per_chip")
    more = [f"{per_chip:.1f} a chip"] if per_chip is not None and per_chip != rate else []
    more += [f"MFU {values['mfu']:.0%}"] if "mfu" in values else []
    words = f"{rate:.1f} images/s" + (f" ({', '.join(more)})" if more else "")
    for name, label in (("data_wait", "data wait"), ("goodput", "goodput")):
        words += f"  {label} {values[name]:.0%}" if name in values else ""
    return words + (f"  {values['device_memory_gib']:.1f} GiB" if "device_memory_gib" in values else "")


def _memory() -> list[dict[str, int]]:
    return [stats for device in jax.local_devices() if (stats := device.memory_stats())]
