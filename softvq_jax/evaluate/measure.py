"""Measures every image of a set once, on all hosts; reads ahead, and resumes after an interruption."""

import concurrent.futures
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from softvq_jax.evaluate.devices import Rows
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.evaluate.row_cache import RowCache

READABLE = "readable"  # column that is not stored: whether the image of a row could be read


class NotFinite(ValueError):
    """A measured value of an image is NaN or infinite; `network` is the network that computed it."""

    def __init__(self, message: str, network: str):
        super().__init__(message)
        self.network = network


def measure(
    predictions: Predictions,
    cache: RowCache | None,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> None:
    """Measures the images missing from `cache` and appends their rows; each host measures its share.

    Called by all processes.

    Images that cannot be read get no row.

    Args:
      predictions: the images.
      cache: the row cache on process 0; None in the other processes.
      batch_size: images per host and batch.
      on_batch: called after every batch, in all processes, with the number of finished images; an exception from it ends
        the measurement, and the next call resumes there.

    Raises:
      NotFinite: a value is not finite; raised on all hosts.
      ValueError: on all hosts, if no image is readable.
    """
    done = _from_process_0(0 if cache is None else cache.next_item)
    readable_before = done
    together = jax.process_count() * batch_size
    steps = [(start, min(start + together, len(predictions))) for start in range(done, len(predictions), together)]
    shares = [host_share(start, stop, jax.process_index(), jax.process_count()) for start, stop in steps]
    for (start, stop), share, batch in zip(steps, shares, _read_ahead(predictions.read, shares), strict=True):
        rows = predictions.rows(batch)
        rows = _gather({**rows, READABLE: _readable(predictions, *share)}, stop - start)
        readable = rows.pop(READABLE)
        items = start + np.flatnonzero(readable)
        rows = {name: values[readable] for name, values in rows.items()} if len(items) < stop - start else rows
        _check_finite(rows, predictions, items)
        if cache is not None and len(items):
            cache.append(rows, items)
        readable_before += len(items)
        on_batch(stop)
    if not readable_before:
        raise ValueError(f"none of the {len(predictions):,} images is readable: the warnings above say why")


def _readable(predictions, start, stop) -> np.ndarray:
    """Which of the images `start ... stop - 1`, which were read, are readable: bool `[stop - start]`."""
    unreadable = getattr(predictions, "unreadable", {})
    return np.array([i not in unreadable for i in range(start, stop)], bool)


def _check_finite(rows, predictions, items):
    for name, values in rows.items():
        if values.dtype.kind != "f":
            continue
        broken = np.isnan(values) if name == "psnr" else ~np.isfinite(values)  # PSNR of equal images is infinite
        if broken.any():
            first = int(np.flatnonzero(broken.reshape(len(values), -1).any(axis=1))[0])
            weights = predictions.metadata()["weights"]
            latents = "generator" if "generator" in weights else "tokenizer"
            network = {"lpips": "lpips", "latents": latents}.get(name, "inception")
            raise NotFinite(
                f"{name} of {predictions.describe(int(items[first]))} is not finite: the {network} weights "
                f"(fingerprint {weights.get(network)}) may be broken",
                network,
            )


def host_share(start: int, stop: int, host: int, hosts: int) -> tuple[int, int]:
    """Returns the range within `start ... stop` that a host measures.

    If a short last batch leaves nothing for a host, it repeats the last image, so that all hosts run the same programs.
    """
    each = math.ceil((stop - start) / hosts)
    first = min(start + host * each, stop - 1)
    return first, min(first + each, stop)


def _read_ahead(read, shares) -> Iterator:
    """Yields `read(*share)` for each of `shares`, while a thread reads the next one."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = None
        for share in shares:
            current, pending = pending, pool.submit(read, *share)
            if current is not None:
                yield current.result()
        if pending is not None:
            yield pending.result()


def _from_process_0(number: int) -> int:
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _gather(rows: Rows, count: int) -> Rows:
    """Concatenates the rows of all hosts and returns the first `count`; later ones are repetitions."""
    if jax.process_count() == 1:
        return rows
    return {name: _gather_column(np.asarray(values), count) for name, values in rows.items()}


def _gather_column(values, count):
    each = math.ceil(count / jax.process_count())
    # As bytes, because JAX would convert float64 to float32.
    content = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    padded = np.zeros((each, content.shape[1]), np.uint8)
    padded[: len(content)] = content
    gathered = multihost_utils.process_allgather(padded, tiled=True)
    return np.ascontiguousarray(gathered[:count]).view(values.dtype).reshape(count, *values.shape[1:])
