"""An error in one process ends the others, with its message."""

import signal
import time

import pytest

from softvq_jax.train.preemption import EXIT_CODE
from tests import programs


def ended(*args) -> tuple[list[int], list[str], float]:
    """Returns exit codes and outputs of two processes, and the seconds between their ends."""
    running = programs.start("failing", *args, processes=2)
    try:
        ends = {}
        while len(ends) < 2:
            ends |= {
                i: time.monotonic() for i, process in enumerate(running) if i not in ends and process.poll() is not None
            }
            time.sleep(0.1)
        outputs = [process.communicate(timeout=60)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], outputs, max(ends.values()) - min(ends.values())


@pytest.mark.parametrize(("what", "who", "says"), [("reported", 1, "shard 7 is unreadable"), ("uncaught", 0, "boom")])
def test_the_other_process_ends_with_the_message(what, who, says, tmp_path):
    codes, outputs, seconds = ended(what, who, tmp_path, tmp_path)
    assert codes == [1, 1] and seconds < 10, outputs
    assert f"ended by process {who} on " in outputs[1 - who] and says in outputs[1 - who]
    assert says in outputs[who] and "ended by" not in outputs[who]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_shared_is_reported(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    codes, outputs, _ = ended("folder", 0, mine, other)
    assert codes == [1, 1], outputs
    assert f"--workdir={other} of process 1" in outputs[0] and "need the same folder" in outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_lost_host_ends_the_other(who, tmp_path):
    """It is killed without a word, also process 0, which runs the coordination service."""
    codes, outputs, seconds = ended("killed", who, tmp_path, tmp_path)
    assert codes[who] == -signal.SIGKILL and codes[1 - who] not in (0, EXIT_CODE) and seconds < 90, outputs
    assert "coordination" in outputs[1 - who].lower() or "gloo" in outputs[1 - who].lower()
