"""The loop that measures every image of a set once: on all hosts, with reading ahead, from where it was interrupted."""

import concurrent.futures
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from softvq_jax.evaluate.devices import Rows
from softvq_jax.evaluate.row_cache import Records


class NotFinite(ValueError):
    """Something that was measured of an image is NaN or infinite; `network` is the weights that it comes from."""

    def __init__(self, message: str, network: str):
        super().__init__(message)
        self.network = network


class Subject(Protocol):
    """A set of images and what is to be known of each."""

    size: tuple[int, int]  # height and width of the images

    def __len__(self) -> int: ...

    def about(self) -> dict:
        """JSON values that change when the rows would, which resuming compares; `weights` are fingerprints by name."""

    def crop(self) -> str:
        """What was done to the images' size, in words."""

    def where(self, i: int) -> str:
        """Image `i` in words, for messages."""

    def compute(self) -> dict[str, str]:
        """Types of the matmuls that make the images, by network."""

    def read(self, start: int, stop: int) -> Any:
        """Fetches images `start ... stop - 1`; called in a thread, ahead of what is measured."""

    def rows(self, batch: Any) -> Rows:
        """What `read` returned, measured: one row an image in every column."""


def measure(
    subject: Subject,
    records: Records | None,
    *,
    batch_size: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Appends the rows of the images that `records` does not have yet, each host measuring its share.

    Args:
      records: where the rows go, on process 0; None on the others.
      batch_size: images for each host at a time.
      on_progress: told how many images are done.

    Raises:
      NotFinite: at the first image for which that is so, on all hosts.
    """
    done = _same_everywhere(0 if records is None else len(records))
    together = jax.process_count() * batch_size
    steps = [(start, min(start + together, len(subject))) for start in range(done, len(subject), together)]
    shares = [_share(start, stop, jax.process_index(), jax.process_count()) for start, stop in steps]
    for (start, stop), batch in zip(steps, _ahead(subject.read, shares), strict=True):
        rows = _from_all_hosts(subject.rows(batch), stop - start)
        _check_finite(rows, subject, start)
        if records is not None:
            records.append(rows)
        on_progress(stop)


def _check_finite(rows, subject, start):
    for name, values in rows.items():
        if values.dtype.kind != "f":
            continue
        broken = np.isnan(values) if name == "psnr" else ~np.isfinite(values)  # that of equal images is infinite
        if broken.any():
            first = int(np.flatnonzero(broken.reshape(len(values), -1).any(axis=1))[0])
            weights = subject.about()["weights"]
            latents = "generator" if "generator" in weights else "tokenizer"
            network = {"lpips": "lpips", "latents": latents}.get(name, "inception")
            raise NotFinite(
                f"{name} of {subject.where(start + first)} is not finite: the {network} weights "
                f"(fingerprint {weights.get(network)}) may be broken",
                network,
            )


def _share(start, stop, host, hosts) -> tuple[int, int]:
    """This host's consecutive part of `start ... stop`; a host that a short last batch leaves out repeats its end."""
    each = math.ceil((stop - start) / hosts)
    first = min(start + host * each, stop - 1)
    return first, min(first + each, stop)


def _ahead(read, shares) -> Iterator:
    """What `read` gives for each of `shares`, the next one being fetched meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = None
        for share in shares:
            current, pending = pending, pool.submit(read, *share)
            if current is not None:
                yield current.result()
        if pending is not None:
            yield pending.result()


def _same_everywhere(number: int) -> int:
    """Process 0's number."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _from_all_hosts(rows: Rows, count: int) -> Rows:
    """The hosts' rows one after the other, `count` in all."""
    if jax.process_count() == 1:
        return rows
    return {name: _gather(np.asarray(values), count) for name, values in rows.items()}


def _gather(values, count):
    each = math.ceil(count / jax.process_count())
    # As bytes, for JAX would make float32 of float64.
    content = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    padded = np.zeros((each, content.shape[1]), np.uint8)
    padded[: len(content)] = content
    everything = multihost_utils.process_allgather(padded, tiled=True)
    return np.ascontiguousarray(everything[:count]).view(values.dtype).reshape(count, *values.shape[1:])
