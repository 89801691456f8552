"""Encodes a data set with a tokenizer, once, to train generators on the latents.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/sit.py:xl_l64 --config.data.path=imagenet-l64 --workdir=runs/sit

Each record holds the latents of a crop and of its mirror image, float32, and the class. Of a discrete tokenizer, such as
TiTok or VQ, it holds the code indices, int32, which a MaskGIT is trained on; --store=latents stores the latents instead.
The default is ADM's center crop; --augment chooses random crops, and --passes their number per image. `dataset.json`,
which is written last, holds the latent statistics that generators normalize with (mean, standard deviation, count) and
the fingerprint of the tokenizer.

The same command resumes an interrupted run, shard by shard. With several hosts, start it on each, with --out on shared
storage; each host encodes its share of the shards.
"""

import argparse
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from absl.flags import argparse_flags
from jax.experimental import multihost_utils

from softvq_jax.data import records, samples, shard_writer, sources
from softvq_jax.data.array_record import INDEX
from softvq_jax.data.decoding import Decoding
from softvq_jax.data.latents import SECTION, LatentsInfo
from softvq_jax.data.source import Source, UnreadableImage
from softvq_jax.evaluate.devices import DeviceFunction, LocalDevices
from softvq_jax.generators.codes import codes_of, codes_of_tokenizer
from softvq_jax.latent_statistics import (
    LatentStatistics,
    add_latents,
    moments_from_fields,
    moments_to_fields,
)
from softvq_jax.metrics.feature_statistics import Moments
from softvq_jax.parallel import distributed
from softvq_jax.parallel.shared_folder import check_shared
from softvq_jax.parallel.start import start
from softvq_jax.pixels import as_float
from softvq_jax.progress import Progress
from softvq_jax.storage import manifest
from softvq_jax.storage.files import PARTIAL, read_json, write_json
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools.command_line import add_processes, add_reading, check_at_least_one, reading, run_tool
from softvq_jax.weights import fingerprints, tokenizer_kinds

PLAN = "encoding.json"  # manifest of an unfinished folder, which also holds `SHARD.json` for each finished shard
MOMENTS = "moments"  # field of `SHARD.json`: moments of the shard's latents
SOURCES = ("embedded", *(name for name in sources.SOURCES if name != "latents"))


class Encoder:
    """Encodes uint8 images `[n, S, S, 3]` and their mirror images.

    Returns latents, float32 `[n, 2, L, D]`, or with `indices` the code indices, int32 `[n, 2, L]`.

    Attributes:
      channels: `D`.
    """

    def __init__(self, tokenizer: Tokenizer, devices: LocalDevices, *, indices: bool = False):
        network = tokenizer_kinds.network(tokenizer.config)

        def encode(params, images):
            model, images = network(params), as_float(images)
            encode = model.encode_indices if indices else model.encode
            pairs = jnp.stack([encode(images), encode(images[:, :, ::-1])], axis=1)
            return {"latents": pairs.reshape(*pairs.shape[:2], -1) if indices else pairs}

        self.channels = tokenizer.config.latent_dim
        self._encode = DeviceFunction(jax.jit(encode), tokenizer.params, devices)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._encode(images)["latents"]


class Crops:
    """The crops to encode; crop `i` is taken from image `i % len(source)`.

    Attributes:
      unreadable: name and reason for each image that could not be read.
    """

    def __init__(self, source: Source, read: samples.Read, passes: int):
        self._source, self._read, self._count = source, read, passes * len(source)
        self.unreadable: list[list[str]] = []

    def __len__(self) -> int:
        return self._count

    def batches(self, items: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields images and classes of the readable crops among `items`, at most `size` at a time, one batch ahead."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def read(begin):
                return [pool.submit(self._read_one, int(i)) for i in items[begin : begin + size]]

            ahead = read(0)
            for begin in range(size, len(items) + size, size):
                current, ahead = ahead, read(begin)
                found = [result for result in (future.result() for future in current) if result is not None]
                if found:
                    images, labels = zip(*found, strict=True)
                    yield np.stack(images), np.asarray(labels, np.int32)

    def _read_one(self, i):
        (result,) = self._read([self._source[i % len(self._source)]], [i])
        if isinstance(result, UnreadableImage):
            logging.warning("skipping unreadable image: %s", result)
            self.unreadable.append([result.where, result.reason])
            return None
        return result


def encode_shard(path: pathlib.Path, crops: Crops, items: np.ndarray, encoder: Encoder, batch_size: int) -> dict:
    """Writes the latents of the crops `items`; returns the shard's entry with the moments of its latents.

    Indices have no moments.

    Raises:
      ValueError: latents are not finite.
    """
    moments, crops.unreadable = Moments(encoder.channels), []

    def encoded():
        for images, labels in crops.batches(items, batch_size):
            latents = encoder(images)
            name = "indices" if np.issubdtype(latents.dtype, np.integer) else "latents"
            if name == "latents":
                add_latents(moments, latents)
            for pair, label in zip(latents, labels, strict=True):
                yield records.encode({name: pair, "label": label})

    entry = shard_writer.write_records(str(path), encoded())
    return entry | {MOMENTS: moments_to_fields(moments), "unreadable": sorted(crops.unreadable)}


def encode(tokenizer: Tokenizer, crops: Crops, folder: pathlib.Path, plan: dict, class_names, batch_size) -> dict:
    """Writes this process's share of the shards; process 0 then writes `dataset.json` and returns its content.

    Raises:
      OtherJob: the folder belongs to another job.
      ValueError: no image is readable, or latents are not finite.
    """
    main, finished = distributed.is_main_process(), folder / INDEX
    if finished.exists():
        index = read_json(finished)
        if differing := manifest.differences(index["plan"], plan):
            raise manifest.OtherJob(f"{folder} holds other latents ({'; '.join(differing)}): use another --out")
        return index
    open_folder(folder, plan)
    count = -(-len(crops) // plan["crops_per_shard"])
    shards = {
        folder / f"latents-{number:05}-of-{count:05}.array_record": items
        for number, items in enumerate(np.array_split(np.arange(len(crops)), count))
        if number % jax.process_count() == jax.process_index()
    }
    missing = {path: items for path, items in shards.items() if not is_finished(path)}
    done = sum(map(len, shards.values())) - sum(map(len, missing.values()))
    progress = Progress("Encoding", sum(map(len, shards.values())), done, unit="crops")
    devices = LocalDevices(batch_size)
    encoder = Encoder(tokenizer, devices, indices=plan.get("store") == "indices")
    for path, items in missing.items():
        write_json(sidecar(path), encode_shard(path, crops, items, encoder, devices.batch_size))
        done += len(items)
        if main:
            progress(done)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("latents encoded")
    return write_index(tokenizer, folder, plan, class_names, count) if main else {}


def write_index(tokenizer: Tokenizer, folder: pathlib.Path, plan: dict, class_names, count: int) -> dict:
    """Writes `dataset.json` of a folder whose `count` shards are finished, and returns its content."""
    sidecars = [sidecar(folder / f"latents-{number:05}-of-{count:05}.array_record") for number in range(count)]
    entries = [read_json(path) for path in sidecars]
    crops = sum(entry["records"] for entry in entries)
    if not crops:
        raise ValueError("none of the images is readable; see the warnings above")
    shape = tokenizer.config
    moments = Moments(shape.latent_dim)
    for entry in entries:
        moments.merge(moments_from_fields(entry[MOMENTS]))
    discrete = plan.get("store") == "indices"
    measured: dict[str, Any] = {"mean": 0.0, "std": 1.0} if discrete else measured_statistics(moments)
    sizes = {"codebook_size": shape.codebook_size, "num_codebooks": shape.num_codebooks}
    codebooks: dict[str, Any] = sizes if discrete else {}
    info = LatentsInfo(
        tokenizer=plan["tokenizer"],
        num_tokens=shape.num_latent_tokens,
        channels=shape.latent_dim,
        image_size=shape.image_size,
        count=crops,
        **measured,
        **codebooks,
    )
    index = {
        "plan": plan,
        "class_names": list(class_names),
        SECTION: info.to_fields(),
        "unreadable": [item for entry in entries for item in entry["unreadable"]],
        "shards": [{name: entry[name] for name in ("file", "records", "bytes", "sha256")} for entry in entries],
    }
    write_json(folder / INDEX, index)
    for path in (*sidecars, folder / PLAN):
        path.unlink()
    return index


def measured_statistics(moments) -> dict[str, Any]:
    """Returns mean and standard deviation of all values and of each channel, as fields of `LatentsInfo`."""
    mean, std = LatentStatistics.from_moments(moments).to_fields().values()
    variances = np.diag(moments.scatter) / moments.count
    of_channels = {"channel_means": moments.mean, "channel_stds": np.sqrt(variances)} if variances.all() else {}
    return {"mean": mean, "std": std} | {name: tuple(values.tolist()) for name, values in of_channels.items()}


def open_folder(folder: pathlib.Path, plan: dict) -> None:
    """Starts or resumes a folder; raises `OtherJob` if it belongs to another job."""
    if distributed.is_main_process():
        manifest.claim(folder, PLAN, plan)
        for left_behind in folder.glob(f"*{PARTIAL}"):
            left_behind.unlink()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("latents folder opened")
        manifest.check(folder / PLAN, plan)


def is_finished(shard: pathlib.Path) -> bool:
    """Returns whether a shard is complete. Shards of older versions, without moments of channels, count as incomplete."""
    return sidecar(shard).exists() and "channel_means" in read_json(sidecar(shard)).get(MOMENTS, {})


def sidecar(shard: pathlib.Path) -> pathlib.Path:
    """Returns the path of the file that marks a shard as finished and holds its entry and the moments of its latents."""
    return shard.with_name(f"{shard.name}.json")


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.encode_latents",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--from", dest="tokenizer", required=True, help="the tokenizer: a folder, a run's workdir or a Hub id")
    add("--data", default="", help="the images, as config.data.path for the --source")
    add("--source", choices=SOURCES, default="folder", help="what --data holds (default: folder)")
    add("--out", required=True, type=as_path, help="folder for the latents")
    add("--augment", choices=["center", *samples.AUGMENTS], default="center", help="which crops (default: center)")
    add("--store", choices=["latents", "indices"], help="what to store (default: indices of a discrete tokenizer)")
    add("--passes", type=int, default=1, help="random crops of each image (default: 1)")
    add("--seed", type=int, default=0, help="seed of random crops")
    add("--crops_per_shard", type=int, default=5000, help="crops in each file (default: 5,000)")
    add("--batch_size", type=int, help="images in a batch on each host (default: by the kind of device)")
    add_reading(parser)
    add_processes(parser)
    args = parser.parse_args(expand_arguments(argv[1:]))
    check_at_least_one(parser, args, "passes", "crops_per_shard", "batch_size")
    if args.augment == "center" and args.passes > 1:
        parser.error(f"--passes={args.passes}: all center crops of an image are the same; give --augment")
    return args


def main(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
      OSError, ValueError, ImportError: the input is wrong, or a file cannot be read or written.
    """
    start(args.coordinator, args.num_processes, args.process_id)
    check_shared(args.out, "--out")
    run(args)


def run(args: argparse.Namespace) -> dict:
    """Encodes, prints a summary, and returns the content of `dataset.json` on process 0, {} in the others."""
    fields = reading(args)
    decoding = Decoding.from_config(fields)
    data = {"source": args.source, "path": args.data, "eval_path": "", "holdout": 0.0, **fields}
    source = sources.training_source(data)
    tokenizer = Tokenizer.from_pretrained(args.tokenizer)
    size = tokenizer.config.image_size
    center = args.augment == "center"
    read = samples.evaluation(size, decoding) if center else samples.training(size, args.augment, args.seed, decoding)
    words = f"ADM centre crop to {size}" if center else f"{args.augment} to {size}, seed {args.seed}"
    crops = Crops(source, read, args.passes)
    plan = {  # compared with the plans in existing folders, so the wording of values must not change
        "tokenizer": fingerprints.of_weights(tokenizer.params),
        "images": source.fingerprint(),
        "crops": ", ".join(filter(None, (words, decoding.describe()))),
        "passes": args.passes,
        "crops_per_shard": args.crops_per_shard,
    }
    store = args.store or ("indices" if tokenizer.config.discrete else "latents")
    if store == "indices":
        codes_of_tokenizer(tokenizer.config)  # raises for continuous latents
        plan["store"] = store
    index = encode(tokenizer, crops, args.out, plan, source.class_names, args.batch_size)
    if index:
        info = LatentsInfo(**index[SECTION])
        kind, shape = "latents", f"{info.num_tokens} tokens of {info.channels} channels, mean {info.mean:.4g}, "
        shape += f"standard deviation {info.std:.4g}"
        if info.discrete:
            kind, shape = "codes", str(codes_of(info))
        print(
            f"{args.out}: {kind} of {info.count:,} crops and their mirror images, {shape}, tokenizer {info.tokenizer}; "
            f"{len(index['unreadable']):,} unreadable images skipped"
        )
    return index


if __name__ == "__main__":
    run_tool(main, parse_flags)
