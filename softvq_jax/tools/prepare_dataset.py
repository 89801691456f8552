"""Turns a folder of images, tar shards or a TFDS data set into sharded ArrayRecord, the fastest source to train from.

    python -m softvq_jax.tools.prepare_dataset --source=folder --path=imagenet/train --out=imagenet-train
    python -m softvq_jax.tools.prepare_dataset --source=tar --path=ILSVRC2012_img_train.tar --out=imagenet-train
    python -m softvq_jax.tools.prepare_dataset --source=tfds --path=imagenet2012@validation --out=imagenet-val
    # later, or on another machine: is every byte still there?
    python -m softvq_jax.tools.prepare_dataset --out=imagenet-val --verify

Image files are kept byte for byte, unless --size makes the larger ones smaller. Every shard is read back before it gets
its name. The same command goes on where an interrupted one stopped; unreadable images are named, left out and counted.
Then train with `--config.data.source=array_record --config.data.path=imagenet-train`.
"""

import concurrent.futures
import json
import os
import pathlib
import sys
from collections.abc import Iterable

import numpy as np
from absl import app, logging
from absl.flags import argparse_flags

from softvq_jax.data import shard_writer, source
from softvq_jax.data.array_record import INDEX
from softvq_jax.data.sources import SOURCES
from softvq_jax.data.workers import WorkerDied, WorkerPool
from softvq_jax.progress import Progress
from softvq_jax.storage import files, manifest
from softvq_jax.tools.command_line import check_at_least_one

JOURNAL = "preparation.jsonl"  # the plan, then a line for every finished shard


class Journal:
    """What is done of a preparation, kept in its folder so that the same command can go on.

    Raises `ValueError` where the folder holds another preparation, `OSError` where it cannot be written.
    """

    def __init__(self, folder: pathlib.Path, plan: dict):
        self._path, self.entries = folder / JOURNAL, {}
        if self._path.exists():
            first, *entries = _whole_lines(self._path) or [None]
            if not isinstance(first, dict):
                raise ValueError(f"{self._path} is damaged: remove it, and start the same command again")
            if differing := manifest.differences(first, plan):
                raise ValueError(
                    f"{folder} holds another unfinished data set ({'; '.join(differing)}): finish that one, or use "
                    "another --out"
                )
            self.entries = {entry["file"]: entry for entry in entries if (folder / entry["file"]).exists()}
        self._rewrite([plan, *self.entries.values()])

    def add(self, entry: dict) -> None:
        self.entries[entry["file"]] = entry
        with shard_writer.writing(self._path), open(self._path, "a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self._path.unlink()

    def _rewrite(self, lines):
        # Without the half line that a kill may have left at the end.
        with shard_writer.writing(self._path):
            files.write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))


def prepare(images: source.Source, folder: pathlib.Path, *, images_per_shard: int, size: int | None, num_workers: int):
    """Writes a source's images as shards with their `dataset.json`, which comes last, and returns its content.

    Args:
      images: a source of encoded images.
      folder: for the shards; made if need be.
      images_per_shard: at most.
      size: smaller side that larger images are shrunk to; None keeps their bytes.
      num_workers: processes, each at a shard.

    Raises:
      ValueError: where the folder holds another data set, or a damaged one, or no image is readable.
      OSError: where something cannot be written.
    """
    plan = {"source": images.fingerprint(), "images": len(images), "images_per_shard": images_per_shard, "size": size}
    with shard_writer.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        index = read_index(folder)
        if differing := manifest.differences(index["plan"], plan):
            raise ValueError(f"{folder} holds another finished data set ({'; '.join(differing)}): use another --out")
        return index
    for left_behind in folder.glob(f"*{shard_writer.UNFINISHED}"):
        left_behind.unlink()
    journal = Journal(folder, plan)
    count = -(-len(images) // images_per_shard)
    shards = {
        f"images-{number:05}-of-{count:05}.array_record": items
        for number, items in enumerate(np.array_split(np.arange(len(images)), count))
    }
    missing = [name for name in shards if name not in journal.entries]
    progress = Progress("Writing", len(images), sum(len(shards[name]) for name in journal.entries))
    tasks = ((str(folder / name), [(images.key(i), images[i]) for i in shards[name]], size) for name in missing)
    done = len(images) - sum(len(shards[name]) for name in missing)
    for entry in in_parallel(shard_writer.write_shard, tasks, num_workers):
        journal.add(entry)
        for key, reason in entry["unreadable"]:
            logging.warning("Unreadable image, left out: %s: %s", key, reason)
        done += len(shards[entry["file"]])
        progress(done)
    entries = [journal.entries[name] for name in shards]
    index = {
        "plan": plan,
        "class_names": list(images.class_names),
        "images": sum(entry["records"] for entry in entries),
        "unreadable": [item for entry in entries for item in entry["unreadable"]],
        "shards": [{name: entry[name] for name in ("file", "records", "bytes", "sha256")} for entry in entries],
    }
    if not index["images"]:
        raise ValueError(f"none of the {len(images)} images is readable: the warnings above say why")
    with shard_writer.writing(folder / INDEX):
        files.write_json(folder / INDEX, index, indent=1)
    journal.remove()
    return index


def read_index(folder: pathlib.Path) -> dict:
    """The `dataset.json` of a finished data set.

    Raises:
      FileNotFoundError: there is none; the message tells a preparation that is not finished from a wrong folder.
      ValueError: it is damaged, or not one of ours.
    """
    path = folder / INDEX
    if not path.is_file():
        if (folder / JOURNAL).is_file():
            raise FileNotFoundError(
                f"no {path}: the data set is not finished; the command that began it goes on with it"
            )
        raise FileNotFoundError(f"no {path}: expected a folder that prepare_dataset wrote to the end")
    try:
        index = json.loads(path.read_bytes())
    except ValueError as error:
        index, reason = None, f"is damaged ({error})"
    else:
        reason = "is not one that prepare_dataset wrote"
    if not isinstance(index, dict) or not {"plan", "class_names", "shards"} <= index.keys():
        raise ValueError(
            f"{path} {reason}: copy it again from where it is whole, or write the data set again elsewhere"
        )
    return index


def verify(folder: pathlib.Path, num_workers: int) -> list[str]:
    """Reads a finished data set completely and returns what is wrong with it, a line each; raises as `read_index`."""
    index = read_index(folder)
    tasks = [(str(folder), entry, len(index["class_names"])) for entry in index["shards"]]
    progress = Progress("Checking", len(tasks), unit="shards")
    problems = []
    for done, found in enumerate(in_parallel(shard_writer.check_shard, tasks, num_workers), 1):
        problems += found
        progress(done)
    return problems


def in_parallel(function, tasks: Iterable[tuple], num_workers: int):
    """Results of `function(*task)`, as they come, from that many processes. Tasks are made when a process is free."""
    pool = WorkerPool(function, num_workers)
    threads = concurrent.futures.ThreadPoolExecutor(num_workers)
    try:
        running, tasks = set(), iter(tasks)
        while True:
            for task in tasks:
                running.add(threads.submit(pool, *task))
                if len(running) == num_workers:
                    break
            if not running:
                return
            finished, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        pool.close()
        threads.shutdown()


def _whole_lines(path):
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def parse_flags(argv: list[str]):
    """The command line's flags."""
    parser = argparse_flags.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=["folder", "tar", "tfds"], default="folder", help="what --path holds")
    parser.add_argument("--path", help="the images: as config.data.path for this source")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the shards")
    parser.add_argument(
        "--size", type=int, help="shrink images to this smaller side, as JPEG; default: keep their bytes"
    )
    parser.add_argument("--images_per_shard", type=int, default=5000)
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--verify", action="store_true", help="only check the finished data set in --out")
    args = parser.parse_args(argv[1:])
    if args.verify == bool(args.path):
        parser.error("give --path to write a data set, or --verify to check the one in --out")
    check_at_least_one(parser, args, "size", "images_per_shard", "num_workers")
    return args


def main(args) -> int:
    logging.set_verbosity(logging.INFO)
    try:
        return _verify(args) if args.verify else _prepare(args)
    except (OSError, ValueError, ImportError, WorkerDied) as error:
        print(f"prepare_dataset: {error}", file=sys.stderr)
        return 2


def _verify(args):
    problems = verify(args.out, args.num_workers)
    print("\n".join(problems) or f"{args.out}: all shards are as they were written, every image decodes")
    return 1 if problems else 0


def _prepare(args):
    images = SOURCES[args.source](args.path)
    settings = {"images_per_shard": args.images_per_shard, "size": args.size, "num_workers": args.num_workers}
    index = prepare(images, args.out, **settings)
    gigabytes = sum(shard["bytes"] for shard in index["shards"]) / 1e9
    print(
        f"{args.out}: {index['images']:,} images of {len(index['class_names']):,} classes in "
        f"{len(index['shards']):,} shards, {gigabytes:.2f} GB; {len(index['unreadable']):,} unreadable left out"
    )
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
