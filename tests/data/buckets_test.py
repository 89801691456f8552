"""Images in a bucket: the same samples in the same order as from the disk, with the same fingerprints and errors."""

import concurrent.futures
import logging
import pathlib
import shutil
import threading

import numpy as np
import pytest

from softvq_jax.config.data import default_data_config
from softvq_jax.data import array_record, parquet, record_ranges, source
from softvq_jax.data.pipeline import train_batches
from softvq_jax.data.sources import open_source
from softvq_jax.storage import bucket_errors, mirror
from softvq_jax.storage.bucket_errors import Unavailable
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.paths import as_path
from softvq_jax.tools import prepare_dataset
from tests.data.photographs import png
from tests.data.tar_test import write_tar

IMAGES = {f"{'ab'[i % 2]}/{i:02}.png": png(i) for i in range(18)}


@pytest.fixture(autouse=True)
def nothing_open():
    """Forgets the files of the test before, which had the same names."""
    for cached in (array_record._reader, array_record._copies, parquet._group):
        cached.cache_clear()


def upload(local: pathlib.Path, target) -> None:
    for path in sorted(local.rglob("*")):
        if path.is_file():
            (target / str(path.relative_to(local))).upload(path)


def write_folder(folder):
    for name, content in IMAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(b"")


def write_tars(folder):
    folder.mkdir()
    names = list(IMAGES)
    for number in range(3):
        write_tar(folder / f"{number:03}.tar", {name: IMAGES[name] for name in names[number::3]})


def write_shards(folder):
    write_folder(folder.parent / "images")
    images = open_source({"source": "folder"}, str(folder.parent / "images"))
    prepare_dataset.prepare(images, folder, images_per_shard=7, size=None, num_workers=1)


def write_parquet(folder):
    pytest.importorskip("pyarrow")
    from tests.data.parquet_test import write

    for number in range(3):
        write(folder / f"{number}.parquet", [0, 1, 0, 1, 0, 1], 6 * number)


KINDS = {"folder": write_folder, "tar": write_tars, "array_record": write_shards, "parquet": write_parquet}


def samples(kind, path, start=0, count=4):
    config = default_data_config() | {"source": kind, "path": str(path), "holdout": 0.25}
    config["num_workers"] = 0
    arguments = {"image_size": 16, "seed": 3, "global_batch": 8, "start_sample": start}
    with train_batches(config, **arguments) as batches:
        return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_the_disk(kind, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_CACHE_GB", "0")  # by ranges alone
    local, remote = tmp_path / "data", bucket / "data"
    KINDS[kind](local)
    upload(local, remote)
    ours, theirs = (open_source({"source": kind}, str(path)) for path in (remote, local))
    assert (ours.class_names, len(ours)) == (theirs.class_names, len(theirs))
    assert ours.part_fingerprints == theirs.part_fingerprints and ours.fingerprint() == theirs.fingerprint()
    assert [ours.key(i) for i in range(len(ours))] == [theirs.key(i) for i in range(len(theirs))]
    expected = samples(kind, local)
    found = [*samples(kind, remote, 0, 1), *samples(kind, remote, 8, 3)]  # resumed after the first step
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_indexes_of_tar_files_are_kept_beside_them(bucket, tmp_path, monkeypatch):
    write_tars(tmp_path / "data")
    upload(tmp_path / "data", bucket / "data")
    first = open_source({"source": "tar"}, f"{bucket}/data/{{000..002}}.tar")
    shutil.rmtree(tmp_path / "cache" / "softvq_jax" / "tar")  # another host
    monkeypatch.setattr("softvq_jax.data.tar._index", lambda shard: pytest.fail("the index is there"))
    second = open_source({"source": "tar"}, f"{bucket}/data/*.tar")
    assert second.fingerprint() == first.fingerprint() and second[5].load() == first[5].load()


def test_shards_are_copied_ahead_and_checked(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_CACHE_DIR", str(tmp_path / "copies"))
    write_shards(tmp_path / "data")
    upload(tmp_path / "data", bucket / "data")
    shards = open_source({"source": "array_record"}, str(bucket / "data"))
    expected = [shards[i].load() for i in range(len(shards))]
    statuses = [(as_path(name), as_path(name).stat()) for name in shards._shards]
    array_record.copy_ahead(shards._to_copy).wait()
    copies = [mirror.copy_of(*status) for status in statuses]
    assert [copy.read_bytes() for copy in copies] == [path.read_bytes() for path, _ in statuses]
    array_record._reader.cache_clear()
    monkeypatch.setattr(record_ranges.BucketShard, "_read_one", lambda *_: pytest.fail("there is a copy"))
    assert [shards[i].load() for i in range(len(shards))] == expected
    path, status = statuses[0]
    shutil.rmtree(copies[0].parent)
    wrong = mirror.BackgroundCopies([(path, status, "0" * 64)])
    wrong.wait()
    assert not copies[0].exists()


def test_copies_keep_to_their_limit(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_CACHE_DIR", str(tmp_path / "copies"))
    monkeypatch.setenv("SOFTVQ_CACHE_GB", "0.000025")
    paths = [bucket / f"{i}" for i in range(4)]
    for path in paths:
        path.write_bytes(path.name.encode() * 10_000)
    ahead = mirror.BackgroundCopies([(path, path.stat(), "") for path in paths])
    ahead.wait()
    assert [mirror.copy_of(path, path.stat()).exists() for path in paths] == [True, True, False, False]
    assert mirror.local_file(paths[3]).read_bytes() == b"3" * 10_000  # in place of the one that was used least
    assert sum(mirror.copy_of(path, path.stat()).exists() for path in paths) == 2
    (bucket / "large").write_bytes(bytes(30_000))
    with pytest.raises(OSError, match=r"do not fit into .*SOFTVQ_CACHE_GB"):
        mirror.local_file(bucket / "large", limited=True)
    assert mirror.local_file(paths[3]).stat().st_size == 10_000  # and removed nothing for it
    assert mirror.local_file(bucket / "large").stat().st_size == 30_000  # such as weights
    shutil.rmtree(mirror.local_file(bucket / "large").parent)
    version = mirror.local_file(paths[3])
    paths[3].write_bytes(b"x" * 10_000)  # another object of the same name and size
    assert mirror.local_file(paths[3]).read_bytes() == b"x" * 10_000 and mirror.local_file(paths[3]) != version


@pytest.mark.parametrize(
    "sizes", [[0, 1, 5], [65_536 - 24 - 40 - 30, 200_000, 3], [1] * 60, [1_000_000, 65_536, 65_512]]
)
def test_records_of_every_size_are_read_by_ranges(sizes, bucket, tmp_path, monkeypatch):
    from array_record.python.array_record_module import ArrayRecordWriter

    monkeypatch.setenv("SOFTVQ_CACHE_GB", "0")
    random = np.random.default_rng(0)
    written = [random.bytes(size) for size in sizes]
    writer = ArrayRecordWriter(str(tmp_path / "a"), "group_size:1,uncompressed")
    for record in written:
        writer.write(record)
    writer.close()
    (bucket / "a").upload(tmp_path / "a")
    shard = record_ranges.BucketShard(f"{bucket}/a")
    assert shard.read(range(len(written))) == written
    with pytest.raises(IndexError):
        shard.read([len(written)])


def test_shards_that_are_compressed_are_copied(bucket, tmp_path, monkeypatch):
    from array_record.python.array_record_module import ArrayRecordWriter

    monkeypatch.setenv("SOFTVQ_CACHE_DIR", str(tmp_path / "copies"))

    def upload(record):
        writer = ArrayRecordWriter(str(tmp_path / "a"), "group_size:1")
        writer.write(record)
        writer.close()
        (bucket / "a").upload(tmp_path / "a")

    upload(b"1" * 1000)
    assert record_ranges.BucketShard(f"{bucket}/a").read([0]) == [b"1" * 1000]
    monkeypatch.setenv("SOFTVQ_CACHE_GB", "0")
    upload(b"2" * 1000)
    with pytest.raises(OSError, match=r"do not fit into .*SOFTVQ_CACHE_GB"):
        record_ranges.BucketShard(f"{bucket}/a")


def test_a_shard_is_copied_when_a_later_record_is_compressed(bucket, tmp_path, monkeypatch):
    from array_record.python.array_record_module import ArrayRecordWriter

    monkeypatch.setenv("SOFTVQ_CACHE_DIR", str(tmp_path / "copies"))
    writer = ArrayRecordWriter(str(tmp_path / "a"), "group_size:1,uncompressed")
    for record in (b"first", b"second"):
        writer.write(record)
    writer.close()
    content = bytearray((tmp_path / "a").read_bytes())
    _, start, _ = record_ranges.read_offsets(_Local(content), len(content))
    assert content[start + record_ranges.CHUNK_HEADER.size] == record_ranges.UNCOMPRESSED
    content[start + record_ranges.CHUNK_HEADER.size] = ord("b")  # the mark of Brotli; the library writes no such file
    (bucket / "a").write_bytes(bytes(content))
    shard = record_ranges.BucketShard(f"{bucket}/a")
    assert shard.read([0]) == [b"first"] and not shard._copy.exists()
    monkeypatch.setattr(BucketPath, "download", lambda self, local: shutil.copy(tmp_path / "a", local))
    assert shard.read([1, 0]) == [b"second", b"first"] and shard._copy.exists()


def test_threads_start_the_copies_once(monkeypatch):
    started, together = [], threading.Barrier(8)

    def start(objects):
        started.append(objects)
        return object()

    monkeypatch.setattr(array_record.listing, "in_threads", lambda *_: [None])
    monkeypatch.setattr(array_record.mirror, "BackgroundCopies", start)

    def copy(_):
        together.wait(10)
        return array_record.copy_ahead((("gs://bucket/a", ""),))

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(copy, range(8)))) == len(started) == 1


def test_one_warning_where_no_index_can_be_kept(proxy, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    write_tars(tmp_path / "data")
    upload(tmp_path / "data", proxy.root / "data")
    proxy.fault = lambda method, uri: 403 if method in ("POST", "PUT") else 0  # read-only
    images = open_source({"source": "tar"}, str(proxy.root / "data"))
    assert len(images) == len(IMAGES)
    [warning] = [message for message in caplog.messages if "indexes" in message]
    assert "the indexes of 3 of 3 tar files" in warning and "no permission to write" in warning


def test_a_damaged_record_is_one_unreadable_image(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_CACHE_GB", "0")
    write_shards(tmp_path / "data")
    path = sorted((tmp_path / "data").glob("*.array_record"))[0]
    content = bytearray(path.read_bytes())
    start, _ = record_ranges.read_offsets(_Local(content), len(content))[1:3]
    content[start + 40 + 200] ^= 1
    path.write_bytes(content)
    upload(tmp_path / "data", bucket / "data")
    shards = open_source({"source": "array_record"}, str(bucket / "data"))
    shards[0].load()
    with pytest.raises(source.UnreadableImage, match="record 1: CorruptRecord: the checksum"):
        shards[1].load()


class _Local:
    def __init__(self, content):
        self._content = bytes(content)

    def read_range(self, start, stop):
        return self._content[start:stop]


def test_an_overloaded_server_is_not_an_unreadable_image(proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_errors, "RETRY_SECONDS", 0.0)
    write_folder(tmp_path / "data")
    upload(tmp_path / "data", proxy.root / "data")
    images = open_source({"source": "folder"}, str(proxy.root / "data"))
    (proxy.root / "data" / "a" / "00.png").unlink()
    with pytest.raises(source.UnreadableImage, match="there is no"):
        images[0].load()
    monkeypatch.setattr(type(as_path("gs://b/a")), "read_bytes", _unavailable)
    with pytest.raises(Unavailable):
        images[1].load()


def _unavailable(self):
    raise Unavailable(f"{self}: the server answers 503")
