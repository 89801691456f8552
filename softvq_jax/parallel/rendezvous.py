"""Waits for all processes before JAX starts, and reports missing ones by name.

JAX's coordination service cannot do this. Its client cannot be used before `connect`, and `connect` is a barrier: if a
process is missing, jaxlib aborts the interpreters of all others (jaxlib 0.10; its error callback cannot be set from
Python either). So all processes first connect to a listener in process 0, which closes before JAX opens the same port.
Everything else, such as the comparison of configs, uses JAX's service (`distributed`).

The listener binds to the coordinator's own address. A message may have 1 KiB and take 5 seconds; malformed messages and
those with another token are ignored. Of the connections that have not sent a message, the newest `MAX_SILENT` are kept.
The token is `SOFTVQ_JAX_TOKEN`, or SLURM's job id; it must be the same in all processes.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import os
import resource
import socket
import time

TOKEN = "SOFTVQ_JAX_TOKEN"
MESSAGE_BYTES = 1024
MESSAGE_SECONDS = 5.0
MAX_SILENT = 256
_RETRY_SECONDS = 0.2
_REPLY_MARGIN_SECONDS = 30.0


def wait_for_all(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns once all processes are connected.

    Args:
      coordinator: `host:port` of process 0. The port is free again afterwards.
      num_processes: number of processes.
      process_id: index of this process.
      timeout: seconds to wait for the others.

    Raises:
      TimeoutError: some processes are missing; the message names them.
      ValueError: two processes have the same number, or disagree about the number of processes.
    """
    host, port = split_address(coordinator)
    me = {"process": process_id, "host": socket.gethostname(), "num_processes": num_processes, "token": _token()}
    if process_id == 0:
        asyncio.run(_Listener(me, timeout).run(bind_host(host), port))
    else:
        _join(host, port, me, timeout)


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port`; raises ValueError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator address {address!r}: expected host:port, for instance 10.0.0.1:8476")
    return host.strip("[]"), int(port)


def bind_host(host: str) -> str:
    """Returns the address on which process 0 listens: the coordinator's if this host has it, else all (`::`).

    The latter is needed for a Kubernetes service name, which does not resolve to an address of this host, and on Debian,
    where `/etc/hosts` resolves the host's own name to a loopback address, which other hosts cannot reach.
    """
    try:
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        is_name = host != "localhost" and not _is_ip(host)
        with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            return "::" if is_name and ipaddress.ip_address(address).is_loopback else address
    except OSError:
        return "::"


def _is_ip(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _token():
    return os.environ.get(TOKEN) or os.environ.get("SLURM_JOB_ID", "")


class _Listener:
    """The listener in process 0, which collects a message from each process and sends all of them the same result."""

    def __init__(self, me: dict, timeout: float):
        self._me, self._timeout, self._present = me, timeout, {0: me}
        self._connections: set[asyncio.Task] = set()
        self._silent: list[asyncio.Task] = []  # of connections without a message yet, the oldest first

    async def run(self, host: str, port: int) -> None:
        self._result = asyncio.get_running_loop().create_future()  # None, or the error to raise everywhere
        self._finish_if_complete()
        _allow_open_files(self._me["num_processes"] + 2 * MAX_SILENT)
        with _listening(host, port) as listening:
            accepting = asyncio.create_task(self._accept(listening))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._result), self._timeout)
            accepting.cancel()
            await asyncio.wait({accepting})
        if not self._result.done():
            self._result.set_result(_missing(self._present, self._me["num_processes"], self._timeout))
        if self._connections:
            await asyncio.wait(self._connections, timeout=MESSAGE_SECONDS)
        _raise(self._result.result())

    async def _accept(self, listening):
        """Serves connections. Not `asyncio.start_server`, which prints thousands of tracebacks if no file can be opened."""
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            except OSError:  # too many open files, or the client has gone
                self._drop_silent(keep=len(self._silent) // 2)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._silent.append(asyncio.create_task(self._serve(connection)))
            self._drop_silent(keep=MAX_SILENT)

    def _drop_silent(self, keep):
        for task in self._silent[: max(0, len(self._silent) - keep)]:
            self._silent.remove(task)
            task.cancel()  # which closes the connection, or drops the last reference to it

    def _heard(self, task):
        if task in self._silent:
            self._silent.remove(task)

    async def _serve(self, connection):
        task = asyncio.current_task()
        assert task is not None
        writer = None
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=MESSAGE_BYTES)
            line = await asyncio.wait_for(reader.readline(), MESSAGE_SECONDS)
            self._heard(task)
            message = _parse(line)
            if message is None:
                return
            if not hmac.compare_digest(message["token"].encode(), self._me["token"].encode()):
                await self._send(writer, _error("ValueError", f"{TOKEN} is not the same here as in process 0"))
                return
            self._connections.add(task)  # from here on, the end waits for this connection to get the result
            if error := _contradiction(self._present, message):
                if not self._result.done():
                    self._result.set_result(error)
            else:
                await self._register(message, reader)
            if self._result.done():
                await self._send(writer, self._result.result())
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # TimeoutError is an OSError; ValueError means that the line is too long
        finally:
            self._connections.discard(task)
            self._heard(task)
            connection.close() if writer is None else writer.close()

    async def _register(self, message, reader):
        """Waits for the result. A process that disconnects earlier counts as missing again, and may reconnect."""
        self._present[message["process"]] = message
        self._finish_if_complete()
        closed = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({closed, self._result}, return_when=asyncio.FIRST_COMPLETED)
        if not self._result.done():
            del self._present[message["process"]]
        closed.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await closed

    def _finish_if_complete(self):
        if len(self._present) == self._me["num_processes"] and not self._result.done():
            self._result.set_result(None)

    async def _send(self, writer, result):
        writer.write(json.dumps({"result": result}).encode() + b"\n")
        await asyncio.wait_for(writer.drain(), MESSAGE_SECONDS)


def _listening(host: str, port: int) -> socket.socket:
    """Opens the socket of the listener; `::` stands for all addresses, also those of IPv4."""
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=4096, dualstack_ipv6=host == "::")
    listening.setblocking(False)
    return listening


def _allow_open_files(number: int) -> None:
    """Raises this process's limit of open files by about `number`, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _join(host: str, port: int, me: dict, timeout: float) -> None:
    """Retries until connected to process 0, sends this process's message, and returns or raises the result."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):  # not started yet, or another program answers
            with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.1)) as connection:
                connection.sendall(json.dumps(me).encode() + b"\n")
                connection.settimeout(max(deadline - time.monotonic(), 0) + _REPLY_MARGIN_SECONDS)
                with connection.makefile("rb") as lines:
                    result = json.loads(lines.readline())["result"]
            break
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"process {me['process']} on {me['host']}: missing process 0, which did not answer at {host}:{port} "
                f"within {timeout:.0f} s. Is it running, is this its address, and is the port open?"
            )
        time.sleep(_RETRY_SECONDS)
    _raise(result)


def _raise(result: dict | None) -> None:
    if result is not None:
        raise {"TimeoutError": TimeoutError, "ValueError": ValueError}[result["error"]](result["message"])


def _parse(line: bytes) -> dict | None:
    """Returns the message in a line; None if it is malformed."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    expected = {"process": int, "host": str, "num_processes": int, "token": str}
    if not isinstance(message, dict) or {name: type(value) for name, value in message.items()} != expected:
        return None
    return message


def _missing(present: dict[int, dict], num_processes: int, timeout: float) -> dict:
    missing = ", ".join(str(process) for process in range(num_processes) if process not in present)
    here = ", ".join(f"{process} on {message['host']}" for process, message in sorted(present.items()))
    return _error(
        "TimeoutError",
        f"missing processes after {timeout:.0f} s: {missing} of {num_processes}. Present: {here}. See the logs of the "
        "missing ones; all must be started with the same coordinator and number of processes",
    )


def _contradiction(present: dict[int, dict], message: dict) -> dict | None:
    first, who = present[0], f"process {message['process']} on {message['host']}"
    if message["num_processes"] != first["num_processes"]:
        problem = f"{who} expects {message['num_processes']} processes, process 0 {first['num_processes']}"
    elif not 0 <= message["process"] < first["num_processes"]:
        problem = f"{who} joined, but there are only processes 0 to {first['num_processes'] - 1}"
    elif message["process"] in present:
        problem = f"{who} has the number of a process already present, on {present[message['process']]['host']}"
    else:
        return None
    return _error("ValueError", problem)


def _error(kind: str, message: str) -> dict:
    return {"error": kind, "message": message}
