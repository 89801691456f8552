"""The input pipeline, which makes batches of crops with Grain.

The image and the crop of a sample depend only on the seed and the global sample index. Sample `g` of a run is item
`g % len` of the shuffled pass `g // len` over the source. Step `s` uses samples `s * global_batch` to
`(s + 1) * global_batch - 1`; each process reads the rows of its own devices. So a checkpoint needs only the index of the
next sample as its position in the data, and a run can resume with another number of processes, workers or devices.

Images are copied to the device as uint8, a quarter of the bytes of float32, and converted to [-1, 1] there.
"""

import dataclasses
import functools
import itertools
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from absl import logging

from softvq_jax.data import latents, samples, workers
from softvq_jax.data.buffers import Buffers
from softvq_jax.data.decoding import Decoding
from softvq_jax.data.shuffle import shuffled
from softvq_jax.data.source import UnreadableImage
from softvq_jax.data.sources import as_source, held_out_source, side_of_crops, training_source

ENDLESS = 2**62
MAX_REPLACEMENTS = 20  # replacements tried for an unreadable image
CHUNK = 16  # samples that a thread or process reads at a time, which amortizes the cost of a transfer
MIN_SEEN = 1000  # samples (or the length of the source) after which the share of unreadable images is checked


class TooManyUnreadable(RuntimeError):
    """More images are unreadable than `data.max_unreadable_share` allows."""


class Batches(Iterator[dict[str, np.ndarray]]):
    """The batches of one process: dicts of arrays `[b, ...]`, with the process's `b` rows of the global batch.

    - `image`: uint8 `[b, S, S, 3]`; or `latents`: float32 `[b, L, D]` or int32 `[b, L]`, from a source of latents
    - `label`: int32 `[b]`, the class
    - `index`: int64 `[b]`, the global sample index
    - `unreadable`: int32 `[b]`, 1 where the sample's own image could not be read
    - `valid`: bool `[b]`, False in evaluation for unreadable images and for padding of the last batch

    Must be closed, or used in a `with` statement. `next` raises errors of the reading threads and processes.
    """

    def __init__(
        self, dataset: grain.IterDataset, pool: workers.WorkerPool | None, length: int, max_unreadable_share: float
    ):
        self._batches = iter(dataset)
        self._pool = pool
        self._min_seen = min(length, MIN_SEEN)
        self._max_share = max_unreadable_share
        self.seen = 0
        self.unreadable = 0

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self.seen += len(batch["index"])
        self.unreadable += int(batch["unreadable"].sum())
        if self.unreadable > self._max_share * max(self.seen, self._min_seen):
            raise TooManyUnreadable(
                f"{self.unreadable} of the first {self.seen} images that this process read are unreadable, more than "
                f"data.max_unreadable_share={self._max_share}; the warnings above name them"
            )
        return batch

    def close(self) -> None:
        self._batches.close()
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def train_batches(
    config: Mapping,
    *,
    image_size: int | None,
    seed: int,
    global_batch: int,
    start_sample: int = 0,
    rows: Iterable[int] | None = None,
    source: Any = None,
) -> Batches:
    """Returns an endless iterator over batches of random crops, randomly flipped, from `start_sample` on.

    Args:
      config: a `data` section; see `config.default_data_config`.
      image_size: side S of the crops in pixels; None for latents.
      seed: seed of the order and of the crops.
      global_batch: samples per step, over all processes.
      start_sample: global index of the first sample: 0 for a new run, else from the checkpoint.
      rows: the rows of every global batch that this process reads, see `parallel.mesh.process_rows`; default: all.
      source: an opened data source, or a Python sequence of `(image, label)` (`data.sequence`); default: the one in
        `config`.

    Raises:
      ValueError: the config is invalid, or `rows` are outside the global batch.
      FileNotFoundError: a path holds no images.
    """
    share = ProcessRows.from_rows(global_batch, rows)
    source = training_source(config) if source is None else as_source(source)
    field = _field(config)
    if field == "latents":
        training = latents.training(seed)
    else:
        side = side_of_crops(image_size)
        training = samples.training(side, config["augment"], seed, Decoding.from_config(config))
    read, pool = _reader(training, config["num_workers"])
    warn = _warn_once()

    def replaced(result: samples.Sample | UnreadableImage, index: int) -> dict:
        for attempt in range(MAX_REPLACEMENTS):
            if not isinstance(result, UnreadableImage):
                sample, label = result
                return _example(field, sample, label, index, unreadable=attempt > 0, valid=True)
            warn(result)
            item = int(np.random.default_rng((seed, index, attempt)).integers(len(source)))
            (result,) = read([source[item]], [index])
        raise TooManyUnreadable(f"{MAX_REPLACEMENTS} images drawn in turn are unreadable: the warnings above name them")

    def examples(indexes: list[int]) -> list[dict]:
        indexes = [start_sample + index for index in indexes]
        references = [source[shuffled(index, len(source), seed)] for index in indexes]
        return list(map(replaced, read(references, indexes), indexes))

    return Batches(_in_parallel(examples, share, ENDLESS, config), pool, len(source), config["max_unreadable_share"])


def eval_batches(
    config: Mapping,
    *,
    image_size: int | None,
    global_batch: int,
    rows: Iterable[int] | None = None,
    source: Any = None,
) -> Batches:
    """Returns batches of the center crops of all held-out images, or of their latents, once and in order.

    All processes get the same number of batches; `valid` marks the samples to use. An unreadable image is logged and
    counted; its pixels are 0 and its `valid` is False. For arguments and errors see `train_batches`.
    """
    share = ProcessRows.from_rows(global_batch, rows)
    source = held_out_source(config, image_size) if source is None else as_source(source)
    field = _field(config)
    if field == "latents":
        evaluation, (shape, dtype) = latents.evaluation(), _latents_form(source)
    else:
        side = side_of_crops(image_size)
        evaluation, shape, dtype = samples.evaluation(side, Decoding.from_config(config)), (side, side, 3), np.uint8
    read, pool = _reader(evaluation, config["num_workers"])
    warn = _warn_once()
    black = np.zeros(shape, dtype)

    def example(result: samples.Sample | UnreadableImage, index: int) -> dict:
        if isinstance(result, UnreadableImage):
            warn(result)
            return _example(field, black, 0, index, unreadable=True, valid=False)
        sample, label = result
        return _example(field, sample, label, index, unreadable=False, valid=True)

    def examples(indexes: list[int]) -> list[dict]:
        existing = [index for index in indexes if index < len(source)]
        padding = [
            _example(field, black, 0, index, unreadable=False, valid=False) for index in indexes[len(existing) :]
        ]
        return [*map(example, read([source[index] for index in existing], existing), existing), *padding]

    batches = -(-len(source) // global_batch)
    dataset = _in_parallel(examples, share, batches * share.local_batch, config)
    return Batches(dataset, pool, len(source), config["max_unreadable_share"])


@dataclasses.dataclass(frozen=True)
class ProcessRows:
    """The rows of every global batch that a process reads, in order."""

    global_batch: int
    rows: tuple[int, ...]

    @classmethod
    def from_rows(cls, global_batch: int, rows: Iterable[int] | None) -> "ProcessRows":
        """Returns the object for these rows (None for all); raises ValueError for rows outside the batch."""
        if global_batch < 1:
            raise ValueError(f"a global batch of {global_batch} samples: expected at least 1")
        rows = tuple(range(global_batch) if rows is None else map(int, rows))
        if not rows or min(rows) < 0 or max(rows) >= global_batch:
            raise ValueError(f"rows {rows} are not all among the {global_batch} of a global batch")
        return cls(global_batch, rows)

    @property
    def local_batch(self) -> int:
        return len(self.rows)

    def global_index(self, position: int) -> int:
        """Returns the global index of this process's sample number `position`."""
        step, place = divmod(position, self.local_batch)
        return step * self.global_batch + self.rows[place]


def _reader(function, num_workers):
    if not num_workers:
        return function, None
    pool = workers.WorkerPool(function, num_workers)
    return pool, pool


def _in_parallel(examples, share, length, config):
    """Returns batches of `examples(global indexes)` over `length` positions, computed chunk by chunk in threads."""
    chunk = math.gcd(share.local_batch, CHUNK)

    def chunk_of_examples(number: int) -> list[dict]:
        return examples([share.global_index(i) for i in range(number * chunk, (number + 1) * chunk)])

    threads = config["num_workers"] or min(16, os.cpu_count() or 1)
    ahead = config["prefetch"] * share.local_batch // chunk
    return (
        grain.MapDataset.range(length // chunk)
        .map(chunk_of_examples)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead)))
        .batch(share.local_batch // chunk, batch_fn=functools.partial(_stack, Buffers()))
    )


def _stack(buffers, chunks):
    examples = list(itertools.chain(*chunks))
    return {name: _stacked(buffers, [example[name] for example in examples]) for name in examples[0]}


def _stacked(buffers, arrays):
    shape, dtype = (len(arrays), *arrays[0].shape), arrays[0].dtype
    out = buffers.take(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    return np.stack(arrays, out=out)


def _field(config):
    return "latents" if config["source"] == "latents" else "image"


def _latents_form(source):
    flips = source[0].read()[0]
    return flips.shape[1:], flips.dtype


def _example(field, sample, label, index, *, unreadable, valid):
    return {
        field: sample,
        "label": np.int32(label),
        "index": np.int64(index),
        "unreadable": np.int32(unreadable),
        "valid": np.bool_(valid),
    }


def _warn_once():
    named, lock = set(), threading.Lock()

    def warn(error: UnreadableImage) -> None:
        with lock:
            new = error.where not in named
            named.add(error.where)
        if new:
            logging.warning("unreadable image, skipped: %s", error)

    return warn
