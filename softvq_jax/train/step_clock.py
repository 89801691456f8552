"""Measures when the devices work on training steps, and what the host does while they do not.

The host queues steps on the devices and goes on, so its own clock does not tell how long a step takes. A thread waits for
the result of each step, which gives the time at which the devices finish it. Between two steps the devices are idle; the
activities of the host at that time (waiting for data, saving, evaluating) are the reason.
"""

import contextlib
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from absl import logging

EVALUATION = "evaluation"
SLOW_FACTOR, SLOW_SECONDS = 5.0, 1.0  # a step is slow if it takes this many times its median, and this much longer
MEDIAN_OF, MEDIAN_FROM = 101, 10  # the median is over this many steps, and known from this many on
WARNING_SECONDS = 30.0  # least time between two warnings
REASONS = {
    "data": "waiting for data",
    "save": "saving",
    "profile": "writing the trace",
    "device": "on the devices",
    "other": "on the host",
}


class Interval(NamedTuple):
    """A stretch of training, in seconds.

    Attributes:
      steps: number of steps.
      seconds: time without evaluations.
      busy: time in which the devices worked on steps.
      idle: time in which they waited, by the host's activity; "other" if it had none of those that are measured.
    """

    steps: int
    seconds: float
    busy: float
    idle: dict[str, float]


class StepClock:
    """Times the steps of a run; must be closed.

    Args:
      now: the clock, in seconds.
      process: number of this process for warnings; None if there is only one.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, process: int | None = None):
        self._now, self._process = now, process
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._waiting = 0  # steps whose end is not known yet
        self._activities: deque[tuple[str, float, float]] = deque()  # of the host: what, from, to
        self._lengths: deque[float] = deque(maxlen=MEDIAN_OF)
        self._finished = self._began = now()  # of the last step; of the interval
        self._evaluating = self._busy = 0.0
        self._steps, self._idle = 0, {}
        self._warned, self._more = -WARNING_SECONDS, 0
        self._thread = threading.Thread(target=self._watch, daemon=True, name="step_clock")
        self._thread.start()

    def restart(self) -> None:
        """Begins the first interval now; the time before does not count."""
        with self._lock:
            self._finished = self._began = self._now()

    def call(self, number: int, step: Callable, *args: Any) -> tuple[Any, Any]:
        """Returns `step(*args)`, a state and metrics, and times it; `number` names the step in warnings."""
        began = self._now()
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = step(*args)
        with self._lock:
            self._waiting += 1
        self._queue.put((number, began, metrics))
        return state, metrics

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Context in which the host does something: "data", "save", "profile" or `EVALUATION`."""
        began = self._now()
        try:
            with jax.profiler.TraceAnnotation(activity):
                yield
        finally:
            ended = self._now()
            with self._lock:
                self._activities.append((activity, began, ended))
                if activity == EVALUATION:
                    self._evaluating += ended - began

    def take_interval(self) -> Interval:
        """Returns the time since the last call, once all steps so far are finished."""
        with self._done:
            self._done.wait_for(lambda: self._waiting == 0)
            now = self._now()
            seconds = now - self._began - self._evaluating
            interval = Interval(self._steps, max(seconds, 1e-9), self._busy, self._idle)
            self._began, self._steps, self._busy, self._evaluating, self._idle = now, 0, 0.0, 0.0, {}
            return interval

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=5.0)  # a step that waits for a lost host never ends

    def _watch(self):
        while (queued := self._queue.get()) is not None:
            number, began, metrics = queued
            with contextlib.suppress(Exception):  # the loop, which waits for the same metrics, raises it
                jax.block_until_ready(metrics)
            del queued, metrics
            ended = self._now()
            with self._lock:
                warning = self._add(number, began, ended)
            if warning:
                logging.warning("%s", warning)
            with self._done:
                self._waiting -= 1
                self._done.notify_all()

    def _add(self, number, began, ended) -> str | None:
        """Adds a step that the host queued at `began`; returns a warning if it is slow."""
        idle = self._idle_until(began)
        busy = ended - max(began, self._finished)
        self._finished = ended
        self._steps += 1
        self._busy += busy
        idle.pop(EVALUATION, 0.0)  # takes its time on purpose
        for what, seconds in idle.items():
            self._idle[what] = self._idle.get(what, 0.0) + seconds
        return self._slow(number, busy, idle, ended)

    def _idle_until(self, began) -> dict[str, float]:
        """Returns the activities of the host, in seconds, from the end of the last step to `began`."""
        gap = max(0.0, began - self._finished)
        idle = {}
        for what, start, end in list(self._activities):
            if end > began:
                break
            self._activities.popleft()
            if (overlap := end - max(start, self._finished)) > 0:
                idle[what] = idle.get(what, 0.0) + overlap
        if (rest := gap - sum(idle.values())) > 0:
            idle["other"] = rest
        return idle

    def _slow(self, number, busy, idle, ended) -> str | None:
        parts = {"device": busy, **idle}
        length, lengths = sum(parts.values()), self._lengths
        median = statistics.median(lengths) if len(lengths) >= MEDIAN_FROM else None
        lengths.append(length)
        if median is None or length < SLOW_FACTOR * median or length < median + SLOW_SECONDS:
            return None
        if ended - self._warned < WARNING_SECONDS:
            self._more += 1
            return None
        more, self._warned, self._more = self._more, ended, 0
        reasons = (f"{seconds:.1f} s {REASONS[what]}" for what, seconds in _longest_first(parts) if seconds >= 0.1)
        where = "" if self._process is None else f" in process {self._process}"
        before = f"; {more} more slow {'step' if more == 1 else 'steps'} since the last such line" if more else ""
        return f"step {number} took {length:.1f} s{where}, its median is {median:.2g} s: {', '.join(reasons)}{before}"


def _longest_first(parts: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda part: -part[1])
