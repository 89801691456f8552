"""Reads the parameters of a training run from its checkpoints, without the run: neither data nor devices are needed.

`train/checkpoint.py` writes and restores whole states. What is read here are records, and the averaged or the raw
parameters alone, as host arrays.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging

from softvq_jax.storage.paths import as_path, is_remote
from softvq_jax.weights.layout import WeightsError

COMMITTED = "commit_success.txt"  # which Orbax writes last into a checkpoint in a bucket
RECORD_DIGEST = "record_sha256"  # field of the record, computed from all others
NETWORKS = ("tokenizer", "generator")  # names in the state of the network that is trained


@dataclasses.dataclass(frozen=True)
class CheckpointWeights:
    """The parameters in a checkpoint.

    Attributes:
      folder: of the checkpoint.
      record: of the checkpoint: step, config by dotted field names, and what else `train.run_record` writes.
      params: tree of host arrays; of a tokenizer `{"model", "alignment"}`, the second where it was trained.
    """

    folder: pathlib.Path
    record: dict[str, Any]
    params: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.record["step"]

    def config(self, section: str) -> dict[str, Any]:
        """A section of the run's config, nested."""
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
    """Returns the folder of a run's checkpoint; None if the folder has none.

    Args:
      folder: a run's workdir, its folder `checkpoints`, or the folder of one checkpoint.
      step: of the checkpoint; by default the newest.

    Raises:
      FileNotFoundError: there are checkpoints, but none of that step.
    """
    folder = as_path(folder)
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
    """Returns the step of a complete checkpoint, the name of its folder; None for anything else."""
    return int(folder.name) if folder.name.isdigit() and _is_complete(folder) else None


def _is_complete(folder):
    """Whether a folder is a checkpoint that was written to its end; in a bucket, a marker of Orbax says so."""
    return (folder / "record" / "metadata").is_file() and (not is_remote(folder) or (folder / COMMITTED).is_file())


def open_checkpoint(folder: str | os.PathLike, task: str, *, step: int | None, raw: bool) -> CheckpointWeights:
    """Finds and reads the checkpoint of a run of `task`; arguments and errors are those of the functions below.

    Raises:
      FileNotFoundError: there is no checkpoint.
      WeightsError: it is that of another task.
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
    """Returns the moving average of the parameters in a checkpoint, or with `raw` those of its last step.

    Raises:
      WeightsError: the checkpoint is damaged, or holds no such parameters.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    record = read_record(checkpoint)
    state = epath.Path(os.fspath((checkpoint / "state").absolute()))
    # Of this process alone: Orbax would wait for the others of a run.
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
    """Returns why a record cannot be that of the checkpoint of `step`; None where nothing is wrong."""
    if not isinstance(record, dict):
        return "its record is damaged: not a JSON object"
    if record.get(RECORD_DIGEST, digest := record_digest(record)) != digest:  # older checkpoints have none
        return "its record is damaged: its SHA-256 differs"
    if step is not None and record.get("step") != step:
        return f"its record is that of step {record.get('step')!r}"
    return None


def record_digest(record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record as JSON with sorted keys, without this digest itself."""
    content = json.loads(json.dumps({name: value for name, value in record.items() if name != RECORD_DIGEST}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def bit_sum(array: np.ndarray) -> int:
    """Returns the sum of an array's bits as integers, modulo 2**32: one entry of a checkpoint's digest."""
    array = np.asarray(array)
    if array.dtype.itemsize in (2, 4) and array.dtype.kind not in "iub":
        array = array.view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    return int(np.sum(array.astype(np.uint32), dtype=np.uint32))


def _in_order(names, raw):
    """The names of the wanted arrays in the order of the state's leaves, which is that of the digest."""
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
