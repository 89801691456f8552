"""Checks of a run before any computation."""

import pathlib

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.parallel.mesh import check_global_batch
from softvq_jax.storage.bucket_errors import BucketError


def check_batches(config: ConfigDict, mesh: Mesh) -> None:
    """Raises ValueError if training batches cannot be sharded over the mesh or divided into microbatches."""
    batch, parts = config.train.batch_size, config.optim.accumulate
    check_global_batch(batch, mesh)
    if parts < 1 or batch // mesh.size % parts:
        fitting = [n for n in range(1, batch // mesh.size + 1) if batch // mesh.size % n == 0]
        raise ValueError(
            f"optim.accumulate={parts} does not divide the {batch // mesh.size} images per device of "
            f"train.batch_size={batch} into equal microbatches: use one of {', '.join(map(str, fitting))}"
        )


def check_writable(folder: pathlib.Path, field: str = "--workdir") -> None:
    """Creates a folder, and checks that files can be written to it.

    Args:
      folder: the folder.
      field: the flag or config field that names it, for the message.

    Raises:
      PermissionError: they cannot; `BucketError` for a bucket.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable_{jax.process_index()}"
        probe.write_text("written")
        probe.unlink()
    except BucketError:
        raise  # its message says what to do
    except OSError as error:
        raise PermissionError(f"cannot write to {folder}: {error.strerror}. Choose another {field}") from error
