"""Reads the parameters in checkpoints of a training run; needs neither its data nor its devices.

`train/checkpoint.py` writes and restores whole states. Here, only records and parameters (averaged or raw) are read, as
host arrays.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

import numpy as np
from absl import logging

from softvq_jax.storage.paths import as_path, expand, is_remote
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.s3_checkpoints import prepare_orbax

COMMITTED = "commit_success.txt"  # Orbax writes this file last into a checkpoint in a bucket
RECORD_DIGEST = "record_sha256"  # field of the record, computed from all other fields
_SHA256 = re.compile("[0-9a-f]{64}")
NETWORKS = ("tokenizer", "generator")  # names of the trained network in the state


@dataclasses.dataclass(frozen=True)
class CheckpointWeights:
    """The parameters in a checkpoint.

    Attributes:
      folder: folder of the checkpoint.
      record: record of the checkpoint: step, config by dotted field names, and the other fields of `train.run_record`.
      params: tree of host arrays; for a tokenizer `{"model", "alignment"}`, without "alignment" if it was not trained.
    """

    folder: pathlib.Path
    record: dict[str, Any]
    params: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self.record["step"]

    def config(self, section: str) -> dict[str, Any]:
        """Returns a section of the run's config as a nested dict."""
        nested: dict[str, Any] = {}
        for field, value in self.record["config"].items():
            first, *names = field.split(".")
            if first == section:
                inner = nested
                for name in names[:-1]:
                    inner = inner.setdefault(name, {})
                inner[names[-1]] = value
        return nested


def find_checkpoint(folder: str | os.PathLike, step: int | None = None) -> pathlib.Path | None:
    """Returns the folder of a run's checkpoint; None if there are no checkpoints.

    Args:
      folder: a run's workdir, its folder `checkpoints`, or the folder of one checkpoint.
      step: step of the checkpoint; None for the newest one.

    Raises:
      FileNotFoundError: there are checkpoints, but none of that step.
    """
    folder = as_path(expand(os.fspath(folder)))
    if _is_complete(folder):
        found = {int(folder.name) if folder.name.isdigit() else -1: folder}
    else:
        paths = [path for pattern in ("*", "checkpoints/*") for path in folder.glob(pattern)]
        found = {number: path for path in paths if (number := step_of(path)) is not None}
    if step is not None and found and step not in found:
        raise FileNotFoundError(
            f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, sorted(found)))}"
        )
    return None if not found else found[max(found) if step is None else step]


def step_of(folder: pathlib.Path) -> int | None:
    """Returns the step of a complete checkpoint, which is the name of its folder; None for other folders."""
    return int(folder.name) if folder.name.isdigit() and _is_complete(folder) else None


def _is_complete(folder):
    """Whether a folder is a completely written checkpoint; in a bucket, it then has Orbax's marker."""
    return (folder / "record" / "metadata").is_file() and (not is_remote(folder) or (folder / COMMITTED).is_file())


def open_checkpoint(folder: str | os.PathLike, task: str, *, step: int | None, raw: bool) -> CheckpointWeights:
    """Finds and reads a checkpoint of a run.

    Args:
      folder, step: see `find_checkpoint`.
      task: expected task of the run, "tokenizer" or "generator".
      raw: see `read_weights`.

    Raises:
      FileNotFoundError: there is no checkpoint, or none of that step.
      WeightsError: the checkpoint is that of another task, or is damaged.
    """
    found = find_checkpoint(folder, step)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint: expected a run's workdir, or WORKDIR/checkpoints/STEP")
    kind = read_record(found)["config"].get("task")
    if kind != task:
        raise WeightsError(f"{found} is a checkpoint of a {kind}; expected that of a {task}")
    weights = read_weights(found, raw=raw)
    logging.info("%s: the %s of step %d", found, "parameters" if raw else "averaged parameters", weights.step)
    return weights


def read_record(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a checkpoint.

    Raises:
      WeightsError: it is damaged.
    """
    checkpoint = as_path(checkpoint)
    path = checkpoint / "record" / "metadata"
    try:
        record = json.loads(path.read_text())
    except ValueError as error:  # neither JSON nor text
        raise WeightsError(f"{path} is damaged ({error}): name an older checkpoint") from error
    if problem := record_problem(record, int(checkpoint.name) if checkpoint.name.isdigit() else None):
        raise WeightsError(f"{checkpoint}: {problem}; name an older checkpoint")
    return record


def read_weights(checkpoint: pathlib.Path, *, raw: bool = False) -> CheckpointWeights:
    """Returns the averaged parameters in a checkpoint; with `raw`, the parameters themselves.

    Raises:
      WeightsError: the checkpoint is damaged, or does not hold these parameters.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    record = read_record(checkpoint)
    prepare_orbax(checkpoint)
    state = epath.Path(os.fspath((checkpoint / "state").absolute()))
    # Only this process reads: by default, Orbax would wait for the other processes.
    single = ocp.options.MultiprocessingOptions(primary_host=_process_index(), active_processes={_process_index()})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=single)
    try:
        names = list(dict(handler.metadata(state).tree))
        wanted = _in_order(names, raw)
        given = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
        arguments = ocp.args.PyTreeRestore(dict.fromkeys(wanted, 0), restore_args=given, partial_restore=True)
        arrays = ocp.Checkpointer(handler, multiprocessing_options=single).restore(state, args=arguments)
    except Exception as error:  # the storage layers raise many types for damaged files
        reason = str(error).split("\n")[0][:200]
        raise WeightsError(f"{checkpoint} cannot be read ({type(error).__name__}: {reason}): name another") from error
    start = 1 if raw else 1 + sum(name.split(".")[0] in NETWORKS for name in names)
    digests = [bit_sum(arrays[name]) for name in wanted]
    if not wanted or record.get("digest", [])[start : start + len(wanted)] != digests:
        raise WeightsError(f"{checkpoint}: its arrays are not the ones that were saved: a file is damaged or lost")
    return CheckpointWeights(checkpoint, record, _nested({name: arrays[name] for name in wanted}, 2 if raw else 1))


def record_problem(record: Any, step: int | None) -> str | None:
    """Returns the problem of a record of the checkpoint of `step`; None if there is none."""
    if not isinstance(record, dict):
        return "its record is damaged: not a JSON object"
    if RECORD_DIGEST in record:
        if record[RECORD_DIGEST] != record_digest(record):
            return "its record is damaged: its SHA-256 differs"
    elif any(isinstance(value, str) and _SHA256.fullmatch(value) for value in record.values()):
        # Older checkpoints have no SHA-256; one under another name is the field itself, with a damaged name.
        return f"its record is damaged: the name {RECORD_DIGEST} is changed"
    if step is not None and record.get("step") != step:
        return f"its record is that of step {record.get('step')!r}"
    return None


def record_digest(record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record, without the field `RECORD_DIGEST`, as JSON with sorted keys."""
    content = json.loads(json.dumps({name: value for name, value in record.items() if name != RECORD_DIGEST}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def bit_sum(array: np.ndarray) -> int:
    """Returns the sum of an array's bits as integers, modulo 2**32: one entry of a checkpoint's digest."""
    array = np.asarray(array)
    if array.dtype.itemsize in (2, 4) and array.dtype.kind not in "iub":
        array = array.view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    return int(np.sum(array.astype(np.uint32), dtype=np.uint32))


def _in_order(names, raw):
    """The names of the wanted arrays, in the order of the state's leaves, as in the digest."""
    prefixes = [f"{network}.params." for network in NETWORKS] if raw else ["ema."]
    return sorted((name for name in names if name.startswith(tuple(prefixes))), key=lambda name: name.split("."))


def _nested(flat, skip):
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, last = name.split(".")[skip:]
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = array
    return tree


def _process_index():
    import jax

    return jax.process_index()
