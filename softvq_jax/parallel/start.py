"""The start of a command, before it uses a device."""

from softvq_jax.parallel import compilation_cache, distributed


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    connect: bool = True,
    config: dict | None = None,
    timeout: float = distributed.DEFAULT_TIMEOUT,
    compilation_cache_folder: str | None = None,
) -> None:
    """Connects this process to the others, and keeps compiled programs for the next start.

    Args:
      coordinator, num_processes, process_id: see `distributed.initialize`.
      connect: False for a command that runs in one process, also where a cluster is detected.
      config: the run's configuration as JSON values, compared among the processes.
      timeout: seconds to wait for the other processes.
      compilation_cache_folder: see `compilation_cache.set_up`.

    Raises:
      OSError, ValueError, RuntimeError: see these two functions.
    """
    if connect:
        distributed.initialize(coordinator, num_processes, process_id, config=config, timeout=timeout)
    compilation_cache.set_up(compilation_cache_folder)  # its default depends on the number of processes
