"""Start-up of several processes, before a device is used."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from jax._src.clusters import ClusterEnv
from jax._src.distributed import global_state  # private: JAX has no public key-value store; a test covers it

from softvq_jax.parallel import errors, rendezvous

DEFAULT_TIMEOUT = 300.0
_KEY = "softvq_jax/config"


class Cluster(NamedTuple):
    """The arguments of `jax.distributed.initialize` for one process."""

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None = None


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    config: dict | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Connects this process to the others; does nothing if there is only one.

    Afterwards, an error in one process ends all of them, see `parallel.errors`.

    TPU pods, SLURM, Open MPI and Kubernetes jobs are detected; elsewhere give all of `coordinator` (`host:port` of
    process 0), `num_processes` and `process_id`. Call this before a device is used.

    Process 0 listens only at the coordinator's address, or at `JAX_COORDINATOR_BIND_ADDRESS` if set. JAX's service has no
    authentication: keep its port inside the cluster's network.

    Args:
      config: the run's configuration as JSON values, compared among the processes.
      timeout: seconds to wait for the others.

    Raises:
      TimeoutError: some processes did not join within `timeout` seconds; the message names them.
      ValueError: the arguments are incomplete or contradictory, or `config` differs; the message names the fields.
      RuntimeError: a device has been used already.
    """
    cluster = resolve_cluster(coordinator, num_processes, process_id, timeout)
    if cluster is None or cluster.num_processes == 1:
        return
    rendezvous.wait_for_all(*cluster[:3], timeout)
    jax.distributed.initialize(
        *cluster,
        cluster_detection_method="deactivate",
        coordinator_bind_address=os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or _bind_address(cluster.coordinator),
        initialization_timeout=max(1, int(timeout)),
    )
    if problems := _config_problems(config or {}, timeout):
        jax.distributed.shutdown()
        raise ValueError(problems)
    errors.watch_other_processes()


def _bind_address(coordinator):
    host, port = rendezvous.split_address(coordinator)
    host = rendezvous.bind_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _config_problems(config: dict, timeout: float) -> str:
    """Compares the configs of all processes; returns the same message in all processes, empty if all are equal.

    The key-value store of JAX's service holds digests; values are stored only if configs differ, and then deleted.
    """
    client, me = global_state.client, global_state.process_id
    assert client is not None, "jax.distributed is initialized"
    milliseconds = int(1000 * timeout)
    config = json.loads(json.dumps(config))  # converts tuples to lists, as in the config from process 0
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    client.key_value_set(f"{_KEY}/digests/{me}", digest)
    client.wait_at_barrier(f"{_KEY}/digests", milliseconds)
    digests = dict(client.key_value_dir_get(f"{_KEY}/digests"))
    if len(set(digests.values())) == 1:
        return ""
    if me == 0:
        client.key_value_set(f"{_KEY}/values", json.dumps(config))
    expected = json.loads(client.blocking_key_value_get(f"{_KEY}/values", milliseconds))
    if found := "; ".join(differences(expected, config)):
        who = f"process {me} on {socket.gethostname()}"
        client.key_value_set(f"{_KEY}/problems/{me:08d}", f"the configs of process 0 and {who} differ: {found}")
    client.wait_at_barrier(f"{_KEY}/problems", milliseconds)
    problems = [text for _, text in sorted(client.key_value_dir_get(f"{_KEY}/problems"))]
    more = f" ({len(problems) - 1} more processes differ)" if len(problems) > 1 else ""
    client.wait_at_barrier(f"{_KEY}/read", milliseconds)
    if me == 0:
        client.key_value_delete(_KEY)
    return f"{problems[0]}{more}. Start all with the same config and flags"


def differences(expected, found, path: str = "") -> Iterator[str]:
    """Yields a line for each difference between two JSON values, such as `optimizer.lr: 0.0001 and 0.0002`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            inner = f"{path}.{key}" if path else key
            yield from differences(expected.get(key, "(absent)"), found.get(key, "(absent)"), inner)
    elif expected != found:
        yield f"{path}: {expected!r} and {found!r}"


def resolve_cluster(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> Cluster | None:
    """Returns the given cluster, else the detected one, else None.

    Raises:
      ValueError: only some of the three are given, or `process_id` is not below `num_processes`.
    """
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if all(value is None for value in flags.values()):
        return _detect_cluster(timeout)
    if coordinator is None or num_processes is None or process_id is None:
        absent = [name for name, value in flags.items() if value is None]
        given = ", ".join(f"{name}={value}" for name, value in flags.items() if value is not None)
        raise ValueError(f"{given} without {' and '.join(absent)}: give all three, or none to have them detected")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id={process_id} with num_processes={num_processes}: count from 0")
    return Cluster(coordinator, num_processes, process_id)


def _detect_cluster(timeout: float) -> Cluster | None:
    # JAX's own detection without its start-up, because the rendezvous needs the address before JAX starts. The name is
    # private; a test covers it.
    coordinator, num_processes, process_id, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(timeout)
    )
    if coordinator is None or num_processes is None or process_id is None:
        return None
    return Cluster(coordinator, num_processes, process_id, devices)


def is_main_process() -> bool:
    """Returns whether this process writes the logs and images."""
    return jax.process_index() == 0
