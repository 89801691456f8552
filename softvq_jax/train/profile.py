"""Traces some steps of a run for xprof and Perfetto, and writes the compiled step's HLO."""

import contextlib
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import jax
from absl import logging

from softvq_jax.storage import files
from softvq_jax.train.write_errors import writing

_NOT_TRACED = "the steps %d to %d are not traced: %s"


class ProfileSteps(NamedTuple):
    """The first and the last step to trace."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "ProfileSteps | None":
        """Returns the steps that `--profile_steps=FIRST:LAST` names, both included; None for an empty text.

        Raises:
          ValueError: the text is not of this form.
        """
        if not text:
            return None
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--profile_steps must be FIRST:LAST, such as 100:110; got {text!r}")
        return cls(int(match[1]), int(match[2]))


class Profile:
    """Writes `profile/` in a workdir: `step.hlo.txt`, and a trace of each process below `plugins/profile/`.

    The trace is recorded in a local folder and then copied, so that the workdir may be anywhere. Recording slows steps down
    a little, and writing the trace takes seconds.

    Args:
      steps: the steps to trace; None for no profile.
      workdir: of the run.
    """

    def __init__(self, steps: ProfileSteps | None, workdir: pathlib.Path):
        self._steps, self._folder = steps, workdir / "profile"
        self._tracing = contextlib.ExitStack()
        self._active = False

    def write_program(self, compiled: jax.stages.Compiled, start: int, end: int) -> None:
        """Writes the optimized HLO of the step, in process 0, if a step after `start` and up to `end` is traced.

        Raises:
          WriteFailed: it cannot be written.
        """
        if self._steps is None:
            return
        if self._steps.first <= start or self._steps.first > end:
            logging.warning(
                "--profile_steps=%d:%d: nothing is traced, because this start of the run takes the steps %d to %d",
                *self._steps, start + 1, end,
            )  # fmt: skip
            self._steps = None
        elif jax.process_index() == 0:
            path = self._folder / "step.hlo.txt"
            with writing(path):
                files.make_folder(self._folder)
                files.write_text(path, compiled.as_text() or "")

    def before(self, step: int) -> None:
        """Begins to trace if `step`, which comes next, is the first one to trace.

        A trace that cannot be recorded, because the disk of temporary files is full, is left out with a warning.
        """
        if self._steps is not None and step == self._steps.first:
            try:
                folder = self._tracing.enter_context(tempfile.TemporaryDirectory())
            except OSError as error:
                logging.warning(_NOT_TRACED, *self._steps, error)
                return
            self._active = True
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # its events would be most of the trace
            jax.profiler.start_trace(folder, profiler_options=options)
            self._tracing.callback(self._finish, pathlib.Path(folder))
            logging.info("tracing the steps %d to %d", *self._steps)

    def ends(self, step: int) -> bool:
        """Returns whether `step` is the last one to trace; then call `end`. The same in all processes."""
        return self._steps is not None and step == self._steps.last

    def end(self, metrics: Any = None) -> None:
        """Waits for `metrics`, the last step's, and writes the trace; does nothing if no step is traced.

        Called once more at the end of the run, for a trace that is still recorded.

        Raises:
          WriteFailed: it cannot be written.
        """
        if self._active:
            self._active = False
            jax.block_until_ready(metrics)
            self._tracing.close()

    def _finish(self, folder: pathlib.Path) -> None:
        assert self._steps is not None
        try:
            jax.profiler.stop_trace()
        except RuntimeError as error:
            logging.warning(_NOT_TRACED, *self._steps, str(error).split("\n")[0])
            return
        target = self._folder / "plugins" / "profile" / f"steps_{self._steps.first}_{self._steps.last}"
        with writing(target):
            files.make_folder(target)
            for path in (path for path in folder.rglob("*") if path.is_file()):
                name = path.name if jax.process_count() == 1 else f"process_{jax.process_index()}_{path.name}"
                files.write_bytes(target / name, path.read_bytes())
        logging.info("the trace is in %s", self._folder)
