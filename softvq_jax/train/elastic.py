"""Runs that resume on fewer devices than they began on, with the same global batch.

A device's share of the batch grows then, and may no longer fit. So each microbatch is computed in pieces, one after the
other, as large on each device as at the start of the run. The random numbers of the examples stay the same
(`parallel.batch_random`), and so do all losses that are means over examples.
"""

from collections.abc import Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

RECORD = "examples_per_device"  # key of the record of a checkpoint: of a microbatch, when the run began
_FIELDS = ("train.batch_size", "optim.accumulate")  # with other values of these, the number per device is set anew


def prepare(step: Any, config: ConfigDict, num_devices: int, record: dict[str, Any]) -> None:
    """Sets `step.pieces` for this number of devices, logs it, and keeps the examples per device at the start in `record`.

    Args:
      step: the task's step.
      config: of the run, whose batch divides among the devices.
      num_devices: of the mesh.
      record: of the checkpoint that the run resumes from, or of a new run; updated.
    """
    now = config.train.batch_size // num_devices // config.optim.accumulate
    if RECORD not in record or _begins_anew(record):
        record[RECORD] = now
    step.pieces = pieces(now, record[RECORD]) if config.checkpoint.elastic else 1
    if step.pieces == 1:
        return
    logging.info(
        "%d devices, fewer than at the start of the run: each step accumulates gradients over %d microbatches of %d images "
        "per device, as at the start (--config.checkpoint.elastic=False: %d images per device)",
        num_devices, step.pieces * config.optim.accumulate, now // step.pieces, now,
    )  # fmt: skip
    if config.task == "tokenizer":
        logging.warning(
            "the adaptive weight, BatchNorm, LeCam and the entropy of codes, where they are used, are computed over these "
            "microbatches and not over the whole batch; all other losses are those of the whole batch"
        )


def pieces(now: int, at_start: int) -> int:
    """Returns the least number of equal pieces of `now` examples that have at most `at_start` examples each."""
    return next(count for count in range(1, now + 1) if now % count == 0 and now // count <= max(1, at_start))


def _begins_anew(record: Mapping[str, Any]) -> bool:
    changes = record.get("changes") or [{"step": -1, "fields": {}}]
    return changes[-1]["step"] == record["step"] and any(field in changes[-1]["fields"] for field in _FIELDS)
