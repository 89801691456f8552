"""Start-up of several processes, before anything touches a device."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax._src.clusters import ClusterEnv

from softvq_jax.parallel import errors
from softvq_jax.parallel.rendezvous import roll_call

DEFAULT_TIMEOUT = 300.0


class Cluster(NamedTuple):
    """What `jax.distributed.initialize` must know of one process."""

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
    """Joins this process to the others; does nothing where there is only one.

    From then on an error in one process ends all of them, see `parallel.failure`.

    TPU pods, SLURM, Open MPI and Kubernetes jobs are detected; elsewhere give all of `coordinator` (`host:port` of
    process 0), `num_processes` and `process_id`. Call it before anything that uses a device.

    Args:
      config: the run's configuration as JSON values, compared among the processes.
      timeout: seconds to wait for the others.

    Raises:
      TimeoutError: naming the processes that did not come in `timeout` seconds.
      ValueError: for incomplete or contradictory arguments, or naming what differs in `config`.
      RuntimeError: a device has been used already.
    """
    cluster = resolve_cluster(coordinator, num_processes, process_id, timeout)
    if cluster is None or cluster.num_processes == 1:
        return
    roll_call(*cluster[:3], config or {}, timeout)
    jax.distributed.initialize(
        *cluster, cluster_detection_method="deactivate", initialization_timeout=max(1, int(timeout))
    )
    errors.listen()


def resolve_cluster(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> Cluster | None:
    """The given cluster, else the detected one, else None.

    Raises:
      ValueError: only some of the three are given, or `process_id` is not below `num_processes`.
    """
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    absent = [name for name, value in flags.items() if value is None]
    if len(absent) == 3:
        return _detect_cluster(timeout)
    if absent:
        given = ", ".join(f"{name}={value}" for name, value in flags.items() if value is not None)
        raise ValueError(f"{given} without {' and '.join(absent)}: give all three, or none to have them detected")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id={process_id} with num_processes={num_processes}: count from 0")
    return Cluster(coordinator, num_processes, process_id)


def _detect_cluster(timeout: float) -> Cluster | None:
    # JAX's own detection, asked for its answer alone: the roll call needs the address before JAX is started. A private
    # name; a test watches it.
    found = Cluster(*ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(timeout)))
    return None if found.coordinator is None else found


def is_main_process() -> bool:
    """Whether this process writes the logs and pictures."""
    return jax.process_index() == 0


def set_compilation_cache(directory: str | os.PathLike) -> None:
    """Keeps compiled programs in `directory`, so that a restart compiles nothing twice.

    Raises:
      OSError: the directory cannot be made or written.
    """
    path = str(directory)
    if "://" not in path:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(f"compilation cache {path}: no permission to write; give another directory")
    jax.config.update("jax_compilation_cache_dir", path)
