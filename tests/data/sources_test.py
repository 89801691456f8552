import collections
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from softvq_jax.config.data import default_data_config
from softvq_jax.data import array_record, embedded, records, sources
from softvq_jax.data.folder import ImageFolder, list_images
from softvq_jax.data.latents import LatentShards
from softvq_jax.data.source import END_BYTES, UnreadableImage, digest_of_file


def write_images(folder, names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)).save(path)


def config(**fields):
    return default_data_config() | fields


def test_held_out_pixels_are_never_trained_on():
    train, held_out = embedded.EmbeddedPhotographs(0.3), embedded.HeldOutPhotographs(0.3, 64)
    trained = collections.defaultdict(list)
    for i in range(len(train)):
        trained[train[i].file].append(train[i].box)
    assert len(trained) == len(train.class_names) == 8
    for i in range(len(held_out)):
        left, top, right, bottom = held_out[i].box
        assert right - left == bottom - top >= 64
        for other_left, _, other_right, _ in trained[held_out[i].file]:
            assert right <= other_left or other_right <= left


def test_embedded_regions_are_pixels_of_the_photographs():
    region = embedded.HeldOutPhotographs(0.3, 64)[1]
    image, label = region.read()
    whole = np.asarray(Image.open(embedded._path(region.file)))
    left, top, right, bottom = region.box
    np.testing.assert_array_equal(np.asarray(image), whole[top:bottom, left:right])
    assert embedded.EmbeddedPhotographs.class_names[label] in region.file


def test_folder_classes_are_the_sorted_subfolders(tmp_path):
    write_images(tmp_path, ["b/1.JPEG", "a/2.png", "a/deep/3.webp", "c/4.bmp", "a/1.jpg"])
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / "._1.jpg").write_bytes(b"another system's leftovers")
    write_images(tmp_path, [".hidden/5.png", "a/.hidden/6.png"])
    folder = ImageFolder(str(tmp_path))
    assert folder.class_names == ("a", "b", "c")
    assert [(folder.key(i), folder[i].label) for i in range(len(folder))] == [
        ("a/1.jpg", 0), ("a/2.png", 0), ("a/deep/3.webp", 0), ("b/1.JPEG", 1), ("c/4.bmp", 2),
    ]  # fmt: skip
    assert folder[3].read()[1] == 1


def test_folder_without_subfolders_is_one_class(tmp_path):
    write_images(tmp_path, ["2.png", "1.png"])
    folder = ImageFolder(str(tmp_path))
    assert [(folder.key(i), folder[i].label) for i in range(2)] == [("1.png", 0), ("2.png", 0)]


def test_empty_and_missing_folders_are_named(tmp_path):
    (tmp_path / "class").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*\.jpeg"):
        ImageFolder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFolder(str(tmp_path / "nowhere"))


def test_broken_images_are_named_with_the_reason(tmp_path):
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.png").write_bytes(b"<html>not found</html>")
    folder = ImageFolder(str(tmp_path))
    (tmp_path / "3.png").unlink()
    for i in range(3):
        with pytest.raises(UnreadableImage, match=rf"{i + 1}\.png: \w+"):
            folder[i].read()


def test_fingerprint_follows_the_files(tmp_path):
    write_images(tmp_path, ["a/1.png", "b/2.png"])
    before = ImageFolder(str(tmp_path)).fingerprint()
    assert ImageFolder(str(tmp_path)).fingerprint() == before
    write_images(tmp_path, ["b/3.png"])
    more = ImageFolder(str(tmp_path))
    assert more.fingerprint() != before and list(more.part_fingerprints) == ["a", "b"]
    (tmp_path / "b" / "3.png").write_bytes(b"another file of the same name")
    changed = ImageFolder(str(tmp_path))
    assert changed.fingerprint() != more.fingerprint()
    assert (
        changed.part_fingerprints["a"] == more.part_fingerprints["a"]
        and changed.part_fingerprints["b"] != more.part_fingerprints["b"]
    )


def test_digest_of_file_reads_size_and_ends(tmp_path):
    path, content = tmp_path / "shard", bytearray(3 * END_BYTES)

    def changed(position):
        other = content.copy()
        other[position] = 1
        path.write_bytes(other)
        return digest_of_file(str(path))

    path.write_bytes(content)
    before = digest_of_file(str(path))
    assert before.startswith(f"{3 * END_BYTES}-")
    assert changed(0) != before and changed(-1) != before
    assert changed(2 * END_BYTES - 1) == before  # as its docstring says
    path.write_bytes(content[:-1])
    assert digest_of_file(str(path)) != before


def test_a_process_keeps_a_bounded_number_of_array_records_open(tmp_path):
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    one = writer(str(tmp_path / "0"), "group_size:1")
    one.write(records.encode({"label": np.int32(7)}))
    one.close()
    for i in range(1, array_record.MAX_OPEN_SHARDS + 20):
        shutil.copy(tmp_path / "0", tmp_path / str(i))
    try:
        before = len(os.listdir("/dev/fd"))
        for i in range(array_record.MAX_OPEN_SHARDS + 20):
            assert array_record.read_record(str(tmp_path / str(i)), 0)["label"] == 7
        assert len(os.listdir("/dev/fd")) - before <= array_record.MAX_OPEN_SHARDS
    finally:
        array_record._reader.cache_clear()


def test_a_share_is_held_out_by_name(tmp_path):
    write_images(tmp_path, [f"{i % 4}/{i}.png" for i in range(40)])
    fields = config(path=str(tmp_path), holdout=0.2)
    train, held_out = sources.training_source(fields), sources.held_out_source(fields, 16)
    keys = {train.key(i) for i in range(len(train))}, {held_out.key(i) for i in range(len(held_out))}
    assert len(keys[0]) == 32 and len(keys[1]) == 8 and not keys[0] & keys[1]
    assert train.class_names == ("0", "1", "2", "3")
    assert train.fingerprint() != held_out.fingerprint()


def test_a_separate_folder_is_held_out(tmp_path):
    write_images(tmp_path, ["train/a/1.png", "val/a/2.png"])
    fields = config(path=str(tmp_path / "train"), eval_path=str(tmp_path / "val"))
    assert len(sources.training_source(fields)) == len(sources.held_out_source(fields, 16)) == 1


@pytest.mark.parametrize(("fields", "message"), [
    ({"source": "zip", "path": "x"}, "data.source='zip': expected one of embedded, array_record, folder, latents, parquet"),
    ({"source": "folder"}, "needs data.path"),
    ({"source": "embedded", "path": "x"}, "takes no data.path"),
    ({"source": "embedded", "holdout": 1.0}, "data.holdout=1.0"),
])  # fmt: skip
def test_inconsistent_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        sources.training_source(config(**fields))


def test_missing_held_out_images_are_reported(tmp_path):
    write_images(tmp_path, ["1.png"])
    with pytest.raises(ValueError, match=r"set data\.eval_path"):
        sources.held_out_source(config(path=str(tmp_path), holdout=0.0), 16)
    with pytest.raises(ValueError, match="cannot hold out 50% of 1 images"):
        sources.held_out_source(config(path=str(tmp_path), holdout=0.5), 16)


def test_images_are_listed_by_file_folder_and_pattern(tmp_path):
    names = ("b.png", "a/2.JPG", "a/b/1.webp", "a.txt", ".hidden.png", "a/.cache/3.png", "c/4.bmp")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    below = lambda name: [os.path.relpath(path, tmp_path) for path in list_images(str(tmp_path / name))]  # noqa: E731
    assert below("") == ["a/2.JPG", "a/b/1.webp", "b.png", "c/4.bmp"] and below("a") == ["a/2.JPG", "a/b/1.webp"]
    assert below("a.txt") == ["a.txt"] and below("[bc]*") == ["b.png", "c/4.bmp"]
    with pytest.raises(FileNotFoundError, match=r"no image found at .*nothing"):
        list_images(str(tmp_path / "nothing"))


@pytest.mark.parametrize("content", ["{}", "[]", "5", "{", '{"class_names": [], "shards": [{"file": "a"}]}', "\xff"])
def test_an_index_of_something_else_is_named(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content.encode("latin-1"))
    for opened in (array_record.ArrayRecordShards, LatentShards):
        with pytest.raises(ValueError, match=r"dataset\.json (is damaged|was not written by prepare_dataset)"):
            opened(str(tmp_path))


GOOD_INDEX = {"class_names": ["a"], "shards": [{"file": "s", "records": 1, "bytes": 1}]}
GOOD_INFO = {"tokenizer": "x", "num_tokens": 4, "channels": 2, "image_size": 8, "mean": 0.0, "std": 1.0, "count": 4}


@pytest.mark.parametrize(
    "change",
    [{"class_names": [5]}, *({"shards": [{"file": "s", "records": 1, "bytes": 1} | shard]} for shard in (
        {"records": -1}, {"records": True}, {"file": "../s"}, {"file": ""}, {"bytes": 1.0},
    ))],
)  # fmt: skip
def test_an_index_with_other_values_is_named(tmp_path, change):
    (tmp_path / "dataset.json").write_text(json.dumps(GOOD_INDEX | change))
    with pytest.raises(ValueError, match=rf"{tmp_path}/dataset\.json was not written by prepare_dataset"):
        array_record.ArrayRecordShards(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"std": 0.0}, {"std": float("nan")}, {"mean": "0"}, {"count": 2.5}, {"num_tokens": True}, {"tokenizer": 5}],
)
def test_metadata_of_latents_with_other_values_are_named(tmp_path, change):
    (tmp_path / "dataset.json").write_text(json.dumps(GOOD_INDEX | {"latents": GOOD_INFO | change}))
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/dataset\.json: the section 'latents' lacks {next(iter(change))}"
    ):
        LatentShards(str(tmp_path))


def test_a_class_that_the_index_does_not_name_is_unreadable(tmp_path):
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    shard = writer(str(tmp_path / "s"), "group_size:1")
    for label in (0, 1, -1):
        shard.write(records.encode({"image": b"x", "latents": np.zeros((2, 1, 1)), "label": np.int32(label)}))
    shard.close()
    entry = {"file": "s", "records": 3, "bytes": (tmp_path / "s").stat().st_size}
    for more, opened in (({}, array_record.ArrayRecordShards), ({"latents": GOOD_INFO}, LatentShards)):
        (tmp_path / "dataset.json").write_text(json.dumps(GOOD_INDEX | {"shards": [entry]} | more))
        images = opened(str(tmp_path))
        for i, label in ((1, 1), (2, -1)):
            with pytest.raises(UnreadableImage, match=rf"record {i}: .*its class is {label}, .* names 1 class"):
                images[i].load() if not more else images[i].read()
    assert images[0].read()[1] == 0


def test_latents_are_no_images(tmp_path):
    index = {"class_names": ["a"], "shards": [{"file": "a", "records": 1, "bytes": 1}], "latents": {}}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"holds latents: data\.source='array_record' cannot .*'latents' can"):
        array_record.ArrayRecordShards(str(tmp_path))
