"""A roll call of all processes before JAX is started.

JAX's own start-up aborts the interpreter when a process stays away, without saying which. So the processes first meet
here, on the coordinator's port: process 0 listens, the others tell it who and with what configuration they are, and all
of them go on, or all of them raise the same error naming who is missing or what differs.
"""

import json
import socket
import time
from collections.abc import Iterator

_RETRY_SECONDS = 0.2
_LINE_SECONDS = 5.0
_REPLY_MARGIN_SECONDS = 30.0
_ERRORS = {"TimeoutError": TimeoutError, "ValueError": ValueError}


def roll_call(coordinator: str, num_processes: int, process_id: int, config: dict, timeout: float) -> None:
    """Returns once all processes have met with equal configurations.

    Args:
      coordinator: `host:port` of process 0. The port is free again afterwards.
      config: anything JSON can hold; it must be the same for every process.
      timeout: seconds to wait for the others.

    Raises:
      TimeoutError: some process did not come in time; the message names it.
      ValueError: two processes have the same number, count the processes differently, or differ in `config`.
    """
    host, port = split_address(coordinator)
    me = {"process": process_id, "host": socket.gethostname(), "num_processes": num_processes, "config": config}
    me = json.loads(json.dumps(me))  # Tuples become lists here as they do on the way to process 0.
    verdict = _take(port, me, timeout) if process_id == 0 else _answer(host, port, me, timeout)
    if verdict is not None:
        raise _ERRORS[verdict["error"]](verdict["message"])


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as the two; ValueError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator address {address!r}: expected host:port, for instance 10.0.0.1:8476")
    return host.strip("[]"), int(port)


def differences(expected, found, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each: `optimizer.lr: 0.0001 and 0.0002`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            inner = f"{path}.{key}" if path else key
            yield from differences(expected.get(key, "(absent)"), found.get(key, "(absent)"), inner)
    elif expected != found:
        yield f"{path}: {expected!r} and {found!r}"


def _take(port: int, me: dict, timeout: float) -> dict | None:
    """Process 0: collects everybody's line, and tells everybody the verdict: an error, or None."""
    deadline = time.monotonic() + timeout
    present, connections, verdict = {0: me}, [], None
    with _listen(port) as server:
        while verdict is None and len(present) < me["num_processes"]:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                connection, _ = server.accept()
                line = _receive(connection, _LINE_SECONDS)
            except TimeoutError:
                verdict = _missing(present, me["num_processes"], timeout)
                continue
            if line is None:  # Something else that knocks at open ports.
                connection.close()
                continue
            connections.append(connection)
            verdict = _contradiction(present, line)
            present[line["process"]] = line
        for connection in connections:
            _send(connection, {"verdict": verdict})
        for connection in connections:
            # The other side closes first, so that the port is not left in TIME_WAIT for JAX.
            _receive(connection, 1.0)
            connection.close()
    return verdict


def _answer(host: str, port: int, me: dict, timeout: float) -> dict | None:
    """Any other process: knocks until process 0 opens, says its line and hears the verdict."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1)) as connection:
                _send(connection, me)
                reply = _receive(connection, max(deadline - time.monotonic(), 0) + _REPLY_MARGIN_SECONDS)
            if reply is not None:
                return reply["verdict"]
        except OSError:
            pass  # Not up yet, or restarting.
        if time.monotonic() > deadline:
            return _error(
                "TimeoutError",
                f"process {me['process']} on {me['host']}: missing process 0, which did not answer at {host}:{port} "
                f"within {timeout:.0f} s. Is it running, is this its address, and is the port open?",
            )
        time.sleep(_RETRY_SECONDS)


def _missing(present: dict[int, dict], num_processes: int, timeout: float) -> dict:
    missing = ", ".join(str(process) for process in range(num_processes) if process not in present)
    here = ", ".join(f"{process} on {line['host']}" for process, line in sorted(present.items()))
    return _error(
        "TimeoutError",
        f"missing processes after {timeout:.0f} s: {missing} of {num_processes}. Present: {here}. "
        "Look at the missing ones' own logs; all must be started with the same coordinator and number of processes.",
    )


def _contradiction(present: dict[int, dict], line: dict) -> dict | None:
    first, who = present[0], f"process {line['process']} on {line['host']}"
    if line["num_processes"] != first["num_processes"]:
        problem = f"{who} expects {line['num_processes']} processes, process 0 {first['num_processes']}"
    elif not 0 <= line["process"] < first["num_processes"]:
        problem = f"{who} came, but there are only processes 0 to {first['num_processes'] - 1}"
    elif line["process"] in present:
        problem = f"{who} has the number of a process already here, on {present[line['process']]['host']}"
    elif line["config"] != first["config"]:
        found = "; ".join(differences(first["config"], line["config"]))
        problem = f"the configurations of process 0 and {who} differ: {found}. Start all with the same config and flags"
    else:
        return None
    return _error("ValueError", problem)


def _error(kind: str, message: str) -> dict:
    return {"error": kind, "message": message}


def _listen(port: int) -> socket.socket:
    dualstack = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dualstack else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dualstack, backlog=4096)


def _send(connection: socket.socket, message: dict) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, timeout: float) -> dict | None:
    """One line of JSON; None if the other side closes, stays silent or speaks something else."""
    connection.settimeout(timeout)
    try:
        with connection.makefile("rb") as lines:
            message = json.loads(lines.readline())
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
