import io
import logging
import re

from softvq_jax import progress
from softvq_jax.progress import Progress, StagedProgress, duration


def test_a_log_gets_occasional_lines_and_always_the_last(monkeypatch):
    now, lines = iter([0.0, 1.0, 5.0, 5.0, 6.0, 10.0]), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    show = Progress("measuring samples", 4000, 1000, log=lines.append)
    for done in (1500, 2000, 2500, 4000):  # at 1, 5, 6 and 10 seconds
        show(done)
    assert lines == [
        "measuring samples: 2,000 of 4,000 images, 200.00 images/s, 00:10 left",
        "measuring samples: 4,000 of 4,000 images, 300.00 images/s, 00:00 left",
    ]


def test_slow_work_has_items_per_second_too(monkeypatch):
    now, lines = iter([0.0, 4.0]), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    Progress("Writing", 1, log=lines.append)(1)
    assert lines == ["Writing: 1 of 1 images,  0.25 images/s, 00:00 left"]


def test_a_terminal_gets_one_line_rewritten(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    show = Progress("encoding", 3, unit="crops")
    for done in (1, 2, 3):
        show(done)
    assert screen.getvalue().count("\n") == 1 and "100%|" in screen.getvalue() and "3 of 3 crops" in screen.getvalue()


def test_stages_have_their_own_totals():
    lines = []
    show = StagedProgress(log=lines.append, seconds=0.0)
    for stage, done, total in (("computing FID", 0, 1), ("computing KID", 1, 2), ("computing KID", 2, 2)):
        show(stage, done, total)
    assert lines[0] == "computing FID" and lines[1].startswith("computing KID: 2 of 2 parts") and len(lines) == 2


def test_durations():
    assert (duration(65), duration(3723)) == ("01:05", "1:02:03")


def test_the_log_of_a_command_leaves_out_messages_of_other_packages(monkeypatch):
    handler = logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(progress.logging, "get_absl_handler", lambda: handler)
    progress.set_up_log()
    for path, level in (
        ("orbax/a.py", logging.INFO),
        ("orbax/b.py", logging.WARNING),
        ("softvq_jax/c.py", logging.INFO),
    ):
        handler.handle(logging.LogRecord("absl", level, path, 1, "from %s", (path,), None))
    lines = handler.stream.getvalue().splitlines()
    assert [line[9:] for line in lines] == ["from orbax/b.py", "from softvq_jax/c.py"]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", line[:8]) for line in lines)
