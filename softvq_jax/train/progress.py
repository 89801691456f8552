"""What a person sees of a run while it goes on."""

import contextlib
import time
from collections.abc import Mapping

import clu.parameter_overview

SHOWN = ("generator_total", "reconstruction", "perceptual", "alignment", "gan_generator", "discriminator_total", "loss")


class Progress:
    """Rate and time left, without the time that evaluations take."""

    def __init__(self, start: int, num_steps: int, batch_size: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self._last_step, self._last_time = start, time.monotonic()
        self._rate = 0.0

    def rate(self, step: int) -> float:
        """Images per second since the last call."""
        now = time.monotonic()
        self._rate = (step - self._last_step) * self._batch_size / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        return self._rate

    @contextlib.contextmanager
    def paused(self):
        """Time spent inside does not count."""
        began = time.monotonic()
        yield
        self._last_time += time.monotonic() - began

    def line(self, step: int, values: Mapping[str, float]) -> str:
        """`step 200/1000  loss 0.12  ...  350 images/s  1:23 left`, in each loss's own units."""
        left = (self._num_steps - step) * self._batch_size / max(self._rate, 1e-9)
        losses = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
        return f"step {step}/{self._num_steps}  {losses}  {self._rate:.1f} images/s  {duration(left)} left"


def duration(seconds: float) -> str:
    """`2 d 3:04:05`, `1:02:03` or `4:05`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{seconds:02d}" if hours or days else f"{minutes}:{seconds:02d}"
    return f"{days} d {clock}" if days else clock


def parameter_table(params) -> str:
    """Parameters by module, three levels deep, and their sum."""
    count = clu.parameter_overview.count_parameters

    def lines(tree, path=""):
        for name, child in tree.items():
            inner = f"{path}/{name}".lstrip("/")
            if isinstance(child, dict) and inner.count("/") < 2:
                yield from lines(child, inner)
            else:
                yield inner, count({name: child})

    rows = [*lines(params), ("all", count(params))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {number:>13,}" for name, number in rows)
