"""Start-up of several processes: who is missing, what differs, and what the environment says."""

import json
import socket
import threading

import jax
import pytest

from softvq_jax.parallel import distributed, rendezvous
from tests.programs import free_port


def _meet(lines: list[dict], expected: int, timeout: float = 20.0) -> list[Exception | None]:
    """What the roll call raises in each of the processes that come; one thread each."""
    address, results = f"127.0.0.1:{free_port()}", [None] * len(lines)

    def come(index: int, process: int, num_processes: int = expected, config: dict | None = None):
        try:
            rendezvous.roll_call(address, num_processes, process, config or {}, timeout)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=come, args=(i,), kwargs=line) for i, line in enumerate(lines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_all_come():
    assert _meet([{"process": i, "config": {"a": (1, 2)}} for i in range(5)], 5) == [None] * 5


def test_timeout_names_the_missing():
    errors = _meet([{"process": i} for i in (0, 1, 4)], 6, timeout=1.5)
    assert all(isinstance(error, TimeoutError) for error in errors)
    assert all("2, 3, 5 of 6" in str(error) and socket.gethostname() in str(error) for error in errors)


def test_timeout_names_process_0():
    [error] = _meet([{"process": 1}], 2, timeout=0.5)
    assert isinstance(error, TimeoutError) and "missing process 0" in str(error)


def test_different_configs_stop_every_process():
    configs = [{"lr": 1e-4, "model": {"size": "L"}}, {"lr": 2e-4, "model": {"size": "B"}, "new": True}]
    for error in _meet([{"process": i, "config": config} for i, config in enumerate(configs)], 2):
        assert isinstance(error, ValueError)
        for part in ("process 1", "lr: 0.0001 and 0.0002", "model.size: 'L' and 'B'", "new: '(absent)' and True"):
            assert part in str(error)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"process": 0}, {"process": 1, "num_processes": 3}], "expects 3 processes, process 0 2"),
        ([{"process": 0}, {"process": 5}], "only processes 0 to 1"),
        (
            [{"process": 0, "num_processes": 3}, *[{"process": 1, "num_processes": 3}] * 2],
            "number of a process already",
        ),
    ],
)
def test_contradictions(lines, says):
    errors = _meet(lines, 2)
    assert all(isinstance(error, ValueError) and says in str(error) for error in errors)


def test_a_stranger_at_the_port_is_ignored():
    port = free_port()
    results = []

    def knock():
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return
            except OSError:
                continue

    def come(process):
        rendezvous.roll_call(f"127.0.0.1:{port}", 2, process, {}, 20.0)
        results.append(process)

    server = threading.Thread(target=come, args=(0,))
    server.start()
    knock()
    come(1)
    server.join()
    assert sorted(results) == [0, 1]


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":80", "localhost:http", "localhost:70000"])
def test_bad_address(address):
    with pytest.raises(ValueError, match="expected host:port"):
        rendezvous.split_address(address)


def test_addresses():
    assert rendezvous.split_address("node-1:8476") == ("node-1", 8476)
    assert rendezvous.split_address("[::1]:8476") == ("::1", 8476)


def test_flags_come_together():
    with pytest.raises(ValueError, match="num_processes=2 without coordinator and process_id"):
        distributed.resolve_cluster(None, 2, None, 1.0)
    with pytest.raises(ValueError, match="process_id=2 with num_processes=2"):
        distributed.resolve_cluster("a:1", 2, 2, 1.0)


def test_one_process_needs_no_start():
    distributed.initialize()
    distributed.initialize("localhost:1", 1, 0)
    assert not jax.distributed.is_initialized()
    assert distributed.is_main_process()


def test_slurm_is_detected(monkeypatch):
    step = {"JOB_ID": 5000, "STEP_NODELIST": "gpu[07-08],gpu11", "NTASKS": 6, "PROCID": 3, "LOCALID": 1}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    cluster = distributed.resolve_cluster(None, None, None, 1.0)
    assert cluster.coordinator.startswith("gpu07:")
    assert cluster[1:] == (6, 3, [1])


def test_compilation_cache(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        distributed.set_compilation_cache(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "b")
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            distributed.set_compilation_cache(tmp_path / "file")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_differences_of_equal_configs():
    config = {"a": [1, {"b": None}]}
    assert not list(rendezvous.differences(config, json.loads(json.dumps(config))))
