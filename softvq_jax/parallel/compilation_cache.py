"""The folder in which compiled programs are kept between runs.

Commands use a folder in the user's cache. Importing the package sets nothing, because JAX's settings belong to the program.

JAX's key of a program contains the version of jaxlib, the compiler's options and the model and features of the CPU, so that
machines which share a home directory do not load code for another CPU.
"""

import contextlib
import os
import pathlib
import warnings

import jax
from absl import logging
from filelock import FileLock  # JAX locks the folder with it too

from softvq_jax.storage.paths import user_cache

MAX_BYTES = 5_000_000_000
MIN_COMPILE_SECONDS = 0.2
LOCK_SECONDS = 10.0
# Earlier versions print two long lines for each program loaded on a CPU with AVX-512, and may crash on macOS.
_OLDEST = (0, 10, 2)


def set_up(directory: str | None = None) -> None:
    """Keeps compiled programs in a folder, so that the next start does not compile them again.

    By default this is `softvq_jax/programs` in the user's cache folder, with at most `MAX_BYTES`; JAX deletes what was not
    used for the longest time. It is used only if JAX's own settings name no folder and do not turn the cache off, and in
    runs of a single process: of several, only process 0 writes, and on GPUs a program that process 0 loads while the others
    compile it can make them wait for each other. If the folder cannot be used, a warning says so and the run goes on.

    Args:
      directory: another folder, local or in a bucket, for any number of processes that all see it; "" for none; None for
        the default.

    Raises:
      OSError: `directory` cannot be created or written to.
    """
    if directory is None:
        _use_default()
    elif directory:
        _use(directory)


def _use(directory):
    if "://" not in directory:
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(f"compilation cache {directory}: no permission to write; give another directory")
    jax.config.update("jax_compilation_cache_dir", str(directory))


def _use_default():
    set_by_user = _setting("jax_compilation_cache_dir") is not None or not _setting("jax_enable_compilation_cache")
    if set_by_user or jax.distributed.is_initialized() or jax.__version_info__ < _OLDEST:
        return
    _set_unless_in_environment("jax_compilation_cache_max_size", MAX_BYTES)
    _set_unless_in_environment("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    try:
        folder = user_cache("programs")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder)
        _remove_incomplete(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        logging.warning("compiled programs are not kept for the next start: %s", error)
        return
    # A full disk or a damaged program costs a compilation and no more: JAX's warning for each program is noise.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _setting(name):
    return getattr(jax.config, name)  # not all are in the annotations of the config


def _set_unless_in_environment(name, value):
    if name.upper() not in os.environ:
        jax.config.update(name, value)


def _check_private(folder):
    """Raises PermissionError if another user owns the folder or can write to it: its files contain code that runs."""
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{folder} belongs to another user, or others can write to it")


def _remove_incomplete(folder):
    """Removes programs that were not written completely, because of a kill or a full disk.

    JAX writes NAME-cache and then NAME-atime, with the folder locked. Some of its versions keep no further program once a
    NAME-atime is missing, and none replaces a NAME-cache.
    """
    with FileLock(folder / ".lockfile", timeout=LOCK_SECONDS):
        if _setting("jax_compilation_cache_max_size") == -1:  # then JAX writes no NAME-atime
            return
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                with contextlib.suppress(FileNotFoundError):
                    program.unlink()
