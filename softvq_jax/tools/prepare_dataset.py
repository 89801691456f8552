"""Converts a folder of images, tar shards or a TFDS data set to ArrayRecord shards, the fastest source for training.

    python -m softvq_jax.tools.prepare_dataset --source=folder --path=imagenet/train --out=imagenet-train
    python -m softvq_jax.tools.prepare_dataset --source=tar --path=ILSVRC2012_img_train.tar --out=imagenet-train
    python -m softvq_jax.tools.prepare_dataset --source=tfds --path=imagenet2012@validation --out=imagenet-val
    # later, or on another machine: checks every byte
    python -m softvq_jax.tools.prepare_dataset --out=imagenet-val --verify

The bytes of image files are kept, unless --size shrinks larger images. Every shard is read back and checked before it is
renamed to its final name. The same command resumes an interrupted run. Unreadable images are logged, counted and left
out. Then train with `--config.data.source=array_record --config.data.path=imagenet-train`.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging
from absl.flags import argparse_flags

from softvq_jax.data import shard_writer, source
from softvq_jax.data.array_record import INDEX
from softvq_jax.data.decoding import DEFAULT, Decoding
from softvq_jax.data.sources import open_source
from softvq_jax.data.workers import WorkerDied, WorkerPool
from softvq_jax.plurals import counted
from softvq_jax.progress import Progress
from softvq_jax.storage import files, line_log, manifest
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import add_reading, check_at_least_one, reading, run_tool

JOURNAL = "preparation.jsonl"  # the plan, then one line for every finished shard


class Journal:
    """The list of finished shards of an unfinished data set, kept in its folder so that the same command can resume.

    Raises:
      ValueError: the folder holds another unfinished data set, or the journal is damaged.
      OSError: the journal cannot be written.
    """

    def __init__(self, folder: pathlib.Path, plan: dict):
        self._path, self.entries = folder / JOURNAL, {}
        self._log = line_log.open_log(self._path)
        if line_log.exists(self._path):
            first, *entries = _complete_lines(self._path) or [None]
            if not isinstance(first, dict):
                raise ValueError(f"{self._path} is damaged: delete it, and start the same command again")
            if differing := manifest.differences(first, plan):
                raise ValueError(
                    f"{folder} holds another unfinished data set ({'; '.join(differing)}): finish that one, or use "
                    "another --out"
                )
            self.entries = {entry["file"]: entry for entry in entries if (folder / entry["file"]).exists()}
        self._rewrite([plan, *self.entries.values()])

    def add(self, entry: dict) -> None:
        self.entries[entry["file"]] = entry
        with shard_writer.writing(self._path):
            self._log.append(json.dumps(entry).encode() + b"\n")
            self._log.sync()

    def remove(self) -> None:
        self._log.close()
        self._path.unlink()

    def _rewrite(self, lines):
        # Drops an incomplete last line, which a killed process may have left.
        with shard_writer.writing(self._path):
            self._log.rewrite(json.dumps(line).encode() + b"\n" for line in lines)


def prepare(
    images: source.Source,
    folder: pathlib.Path,
    *,
    images_per_shard: int,
    size: int | None,
    num_workers: int,
    decoding: Decoding = DEFAULT,
):
    """Writes the images of a source as shards, then `dataset.json`, and returns its content.

    Args:
      images: a source of encoded images.
      folder: folder for the shards; created if it does not exist.
      images_per_shard: largest number of images in a shard.
      size: smaller side in pixels to which larger images are shrunk; None keeps their bytes.
      num_workers: number of processes, each of which writes one shard at a time.
      decoding: how images that are shrunk become RGB, and how large they may be.

    Raises:
      ValueError: the folder holds another or a damaged data set, or no image is readable.
      OSError: a file cannot be written.
    """
    plan = {"source": images.fingerprint(), "images": len(images), "images_per_shard": images_per_shard, "size": size}
    if size is not None and decoding.describe():
        plan["decoding"] = decoding.describe()
    with shard_writer.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        index = read_index(folder)
        if differing := manifest.differences(index["plan"], plan):
            raise ValueError(f"{folder} holds another finished data set ({'; '.join(differing)}): use another --out")
        return index
    for leftover in folder.glob(f"*{shard_writer.UNFINISHED}"):
        leftover.unlink()
    journal = Journal(folder, plan)
    count = -(-len(images) // images_per_shard)
    shards = {
        f"images-{number:05}-of-{count:05}.array_record": items
        for number, items in enumerate(np.array_split(np.arange(len(images)), count))
    }
    _write_missing(images, folder, shards, journal, size, num_workers, decoding)
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


def _write_missing(images, folder, shards, journal, size, num_workers, decoding):
    """Writes the shards that are not in the journal yet, and adds each to it when it is complete."""
    missing = [name for name in shards if name not in journal.entries]
    progress = Progress("Writing", len(images), sum(len(shards[name]) for name in journal.entries))
    tasks = (
        (str(folder / name), [(images.key(i), images[i]) for i in shards[name]], size, decoding) for name in missing
    )
    done = len(images) - sum(len(shards[name]) for name in missing)
    for entry in in_parallel(shard_writer.write_shard, tasks, num_workers):
        journal.add(entry)
        for key, reason in entry["unreadable"]:
            logging.warning("unreadable image, left out: %s: %s", key, reason)
        done += len(shards[entry["file"]])
        progress(done)


def read_index(folder: pathlib.Path) -> dict:
    """Reads the `dataset.json` of a finished data set.

    Raises:
      FileNotFoundError: there is none; the message states whether the data set is unfinished or the folder is wrong.
      ValueError: the file is damaged, or was not written by this tool.
    """
    path = folder / INDEX
    if not path.is_file():
        if (folder / JOURNAL).is_file():
            raise FileNotFoundError(f"no {path}: the data set is not finished; start the command that writes it again")
        raise FileNotFoundError(f"no {path}: expected a folder that prepare_dataset wrote completely")
    try:
        index = json.loads(path.read_bytes())
    except ValueError as error:
        index, reason = None, f"is damaged ({error})"
    else:
        reason = "was not written by prepare_dataset"
    if not isinstance(index, dict) or not {"plan", "class_names", "shards"} <= index.keys():
        raise ValueError(f"{path} {reason}: copy it again, or write the data set again to another folder")
    return index


def verify(folder: pathlib.Path, num_workers: int) -> list[str]:
    """Reads a finished data set completely; returns its problems, one line each; raises the errors of `read_index`."""
    index = read_index(folder)
    tasks = [(str(folder), entry, len(index["class_names"])) for entry in index["shards"]]
    progress = Progress("Checking", len(tasks), unit="shards")
    problems = []
    for done, found in enumerate(in_parallel(shard_writer.check_shard, tasks, num_workers), 1):
        problems += found
        progress(done)
    return problems


def in_parallel(function, tasks: Iterable[tuple], num_workers: int):
    """Yields results of `function(*task)` in order of completion; takes the next task when a process is free."""
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


def _complete_lines(path):
    lines = []
    for line in line_log.read(path).decode(errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.prepare_dataset",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--source", choices=["folder", "tar", "tfds", "parquet"], default="folder", help="kind of the images in --path"
    )
    parser.add_argument("--path", help="location of the images, as config.data.path for this source")
    parser.add_argument("--out", required=True, type=as_path, help="folder for the shards")
    parser.add_argument(
        "--size", type=int, help="smaller side in pixels to shrink images to, as JPEG; default: keep their bytes"
    )
    parser.add_argument("--images_per_shard", type=int, default=5000, help="default: 5000")
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count(), help="number of processes; default: number of cores"
    )
    add_reading(parser)
    parser.add_argument("--verify", action="store_true", help="only check the finished data set in --out")
    args = parser.parse_args(expand_arguments(argv[1:]))
    if args.verify == bool(args.path):
        parser.error("give --path to write a data set, or --verify to check the one in --out")
    check_at_least_one(parser, args, "size", "images_per_shard", "num_workers")
    return args


def main(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if --verify finds problems.

    Raises:
      OSError, ValueError, ImportError: the input is wrong, or a file cannot be read or written.
    """
    logging.set_verbosity(logging.INFO)
    try:
        return _verify(args) if args.verify else _prepare(args)
    except WorkerDied as error:
        raise OSError(str(error)) from error


def _verify(args):
    problems = verify(args.out, args.num_workers)
    print("\n".join(problems) or f"{args.out}: no problems: all shards are as written, every image decodes")
    return 1 if problems else 0


def _prepare(args):
    fields = reading(args)
    images = open_source({"source": args.source, **fields}, args.path, args.label_file)
    settings = {"images_per_shard": args.images_per_shard, "size": args.size, "num_workers": args.num_workers}
    settings["decoding"] = Decoding.from_config(fields)
    index = prepare(images, args.out, **settings)
    gigabytes = sum(shard["bytes"] for shard in index["shards"]) / 1e9
    print(
        f"{args.out}: {counted(index['images'], 'image')} of {counted(len(index['class_names']), 'class', 'classes')} in "
        f"{counted(len(index['shards']), 'shard')}, {gigabytes:.2f} GB; {len(index['unreadable']):,} unreadable left out"
    )
    return 0


if __name__ == "__main__":
    run_tool(main, parse_flags)
