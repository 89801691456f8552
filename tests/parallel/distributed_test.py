"""Start-up of several processes: which are missing, what differs in their configs, what the environment says."""

import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from softvq_jax.parallel import distributed, rendezvous
from tests import programs
from tests.programs import free_port


def _meet(processes: list[dict], expected: int, timeout: float = 20.0, address: str = "") -> list[Exception | None]:
    """Returns what `wait_for_all` raises in each of the processes; one thread each."""
    address, results = address or f"127.0.0.1:{free_port()}", [None] * len(processes)

    def join(index: int, process: int, num_processes: int = expected):
        try:
            rendezvous.wait_for_all(address, num_processes, process, timeout)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=join, args=(i,), kwargs=kwargs) for i, kwargs in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_all_processes_join():
    assert _meet([{"process": i} for i in range(5)], 5) == [None] * 5


def test_timeout_names_the_missing():
    errors = _meet([{"process": i} for i in (0, 1, 4)], 6, timeout=1.5)
    assert all(isinstance(error, TimeoutError) for error in errors)
    assert all("2, 3, 5 of 6" in str(error) and socket.gethostname() in str(error) for error in errors)


def test_timeout_names_process_0():
    [error] = _meet([{"process": 1}], 2, timeout=0.5)
    assert isinstance(error, TimeoutError) and "missing process 0" in str(error)


@pytest.mark.parametrize(
    ("processes", "says"),
    [
        ([{"process": 0}, {"process": 1, "num_processes": 3}], "expects 3 processes, process 0 2"),
        ([{"process": 0}, {"process": 5}], "only processes 0 to 1"),
        (
            [{"process": 0, "num_processes": 3}, *[{"process": 1, "num_processes": 3}] * 2],
            "number of a process already",
        ),
    ],
)
def test_contradictions(processes, says):
    errors = _meet(processes, 2)
    assert all(isinstance(error, ValueError) and says in str(error) for error in errors)


GOOD = {"process": 1, "host": "x", "num_processes": 2, "token": ""}
MALFORMED = (
    b"{}",
    b"[" * 1000,
    b"5",
    b"null",
    b"\xff\xfe",
    b"",
    b"9" * 5000,
    b"a" * 1_000_000,
    b"GET / HTTP/1.1\r\n\r",
    b"\x16\x03\x01\x02\x00",
    json.dumps(GOOD | {"process": "1"}).encode(),
    json.dumps(GOOD | {"process": True}).encode(),
    json.dumps(GOOD | {"token": "guessed"}).encode(),
    json.dumps(GOOD | {"host": None}).encode(),
    json.dumps({"process": 1}).encode(),
    json.dumps(GOOD).encode()[:-3],
)


@pytest.mark.parametrize("clients", [400, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_clients_change_nothing(clients):
    """Endless lines, half lines that stay open, random bytes; the processes meet as without them."""
    port, rng = free_port(), random.Random(0)
    results, held = [], []

    def join(process):
        rendezvous.wait_for_all(f"127.0.0.1:{port}", 2, process, 60.0)
        results.append(process)

    server = threading.Thread(target=join, args=(0,))
    server.start()
    while not held:
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", port)))
    for i in range(clients):
        stranger = socket.create_connection(("127.0.0.1", port))
        content = MALFORMED[i // 2 % len(MALFORMED)] if i % 2 else rng.randbytes(rng.randrange(2000))
        with contextlib.suppress(OSError):  # the listener closes before it has read an endless line
            stranger.sendall(content + (b"\n" if i % 3 else b""))
        held.append(stranger) if i % 4 == 0 else stranger.close()
    assert not results
    join(1)
    server.join()
    assert sorted(results) == [0, 1]
    for stranger in held:
        stranger.close()


FEW_FILES = """
import resource, sys
from softvq_jax.parallel import rendezvous
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
rendezvous.wait_for_all(sys.argv[1], 2, 0, 60.0)
"""


def test_silent_connections_cannot_use_up_the_open_files():
    """More silent clients than process 0 may open files; it prints nothing, and the others join."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", FEW_FILES, address]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=programs.ROOT)
    held = []
    while len(held) < 300:
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(rendezvous.split_address(address)))
            held[-1].sendall(b"x")
    rendezvous.wait_for_all(address, 2, 1, 40.0)
    assert server.communicate(timeout=60) == ("", None) and server.returncode == 0
    for stranger in held:
        stranger.close()


def test_a_process_may_disconnect_and_reconnect():
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = threading.Thread(target=_meet, args=([{"process": 0}], 3), kwargs={"address": address})
    server.start()
    first = None
    while first is None:
        with contextlib.suppress(OSError):
            first = socket.create_connection(("127.0.0.1", port))
    first.sendall(json.dumps(GOOD | {"num_processes": 3}).encode() + b"\n")
    time.sleep(0.5)
    first.close()
    time.sleep(0.5)
    assert _meet([{"process": i} for i in (1, 2)], 3, address=address) == [None, None]
    server.join()


def test_another_token_is_refused(monkeypatch):
    port, tokens = free_port(), iter(["a", "b", "a"])
    monkeypatch.setattr(rendezvous, "_token", lambda: next(tokens))
    server = threading.Thread(target=_meet, args=([{"process": 0}], 2), kwargs={"address": f"127.0.0.1:{port}"})
    server.start()
    time.sleep(0.5)
    with pytest.raises(ValueError, match="SOFTVQ_JAX_TOKEN is not the same"):
        rendezvous.wait_for_all(f"127.0.0.1:{port}", 2, 1, 20.0)
    rendezvous.wait_for_all(f"127.0.0.1:{port}", 2, 1, 20.0)
    server.join()


def test_process_0_listens_at_the_coordinators_address_only():
    assert rendezvous.bind_host("127.0.0.1") == "127.0.0.1"
    assert rendezvous.bind_host("localhost") in ("127.0.0.1", "::1")
    assert rendezvous.bind_host("192.0.2.1") == "::"  # an address that no host has, as a Kubernetes service's


def test_different_configs_stop_every_process(tmp_path):
    configs = [{"lr": 1e-4, "model": {"size": "L"}}, {"lr": 2e-4, "model": {"size": "B"}, "new": True}]
    for i, config in enumerate(configs):
        (tmp_path / f"{i}.json").write_text(json.dumps(config))
    outputs = []
    for process in programs.start("compare_configs", tmp_path, processes=2):
        outputs.append(process.communicate(timeout=60)[0])
        assert process.returncode == 0, outputs
    for output in outputs:
        for part in ("process 1", "lr: 0.0001 and 0.0002", "model.size: 'L' and 'B'", "new: '(absent)' and True"):
            assert part in output


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":80", "localhost:http", "localhost:70000"])
def test_bad_address(address):
    with pytest.raises(ValueError, match="expected host:port"):
        rendezvous.split_address(address)


def test_addresses():
    assert rendezvous.split_address("node-1:8476") == ("node-1", 8476)
    assert rendezvous.split_address("[::1]:8476") == ("::1", 8476)


def test_incomplete_flags_are_refused():
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


def test_differences_of_equal_configs():
    config = {"a": [1, {"b": None}]}
    assert not list(distributed.differences(config, json.loads(json.dumps(config))))
