"""The start of a command: processes are connected first, because the cache depends on their number."""

import pytest

from softvq_jax.parallel import compilation_cache, distributed
from softvq_jax.parallel.start import start


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setattr(distributed, "initialize", lambda *args, **kwargs: found.append(("initialize", args, kwargs)))
    monkeypatch.setattr(compilation_cache, "set_up", lambda *args: found.append(("set_up", args)))
    return found


def test_processes_are_connected_before_the_cache_is_set_up(calls):
    start("a:1", 2, 1, config={"seed": 0}, timeout=5.0, compilation_cache_folder="gs://b/c")
    connected = ("initialize", ("a:1", 2, 1), {"config": {"seed": 0}, "timeout": 5.0})
    assert calls == [connected, ("set_up", ("gs://b/c",))]


def test_a_command_of_one_process_does_not_look_for_a_cluster(calls):
    start(connect=False)
    assert calls == [("set_up", (None,))]
