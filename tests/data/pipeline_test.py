import tarfile

import numpy as np
import pytest
from absl import logging
from PIL import Image

from softvq_jax.config.data import default_data_config
from softvq_jax.data import crops, pipeline, workers
from softvq_jax.data.folder import ImageFolder
from softvq_jax.tools import prepare_dataset


def config(**fields):
    return default_data_config() | fields


@pytest.fixture
def folder(tmp_path):
    """24 images in 3 classes, each in a color of its own."""
    for number in range(24):
        path = tmp_path / "images" / f"class{number % 3}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20), (number * 10, 7, 9)).save(path)
    return tmp_path / "images"


def take(batches, count):
    with batches:
        taken = [next(batches) for _ in range(count)]
    return {name: np.concatenate([batch[name] for batch in taken]) for name in taken[0]}


def assert_same(ours, theirs):
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def texture(folder):
    """Images whose crops all differ, for tests of the augmentation."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{number}.png")
    return config(path=str(folder), holdout=0.0)


def test_batch_layout(folder):
    with pipeline.train_batches(config(path=str(folder)), image_size=16, seed=0, global_batch=6) as batches:
        batch = next(batches)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "image": ((6, 16, 16, 3), "uint8"),
        "label": ((6,), "int32"),
        "index": ((6,), "int64"),
        "unreadable": ((6,), "int32"),
        "valid": ((6,), "bool"),
    }
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] // 10 % 3)
    assert batch["valid"].all()


def test_every_pass_takes_every_image_once_in_another_order(folder):
    fields = config(path=str(folder), holdout=0.0)
    numbers = take(pipeline.train_batches(fields, image_size=16, seed=0, global_batch=24), 4)["image"][:, 0, 0, 0] // 10
    passes = numbers.reshape(4, 24)
    assert (np.sort(passes) == np.arange(24)).all()
    assert len({tuple(order) for order in passes}) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_depend_only_on_seed_and_index(tmp_path, num_workers):
    """Samples are the same with one process or three, threads or workers, from the start or from the middle."""
    fields = texture(tmp_path / "images")
    arguments = {"image_size": 16, "seed": 3, "global_batch": 6}
    whole = take(pipeline.train_batches(fields, **arguments), 6)
    np.testing.assert_array_equal(whole["index"], np.arange(36))

    fields["num_workers"] = num_workers
    late = take(pipeline.train_batches(fields, start_sample=12, **arguments), 4)
    assert_same(late, {name: array[12:] for name, array in whole.items()})
    other_batch = take(pipeline.train_batches(fields, image_size=16, seed=3, global_batch=4, start_sample=8), 3)
    assert_same(other_batch, {name: array[8:20] for name, array in whole.items()})

    for rows in ([0, 1], [4, 5], [1, 4, 2]):  # the rows of a process need not be adjacent
        share = take(pipeline.train_batches(fields, rows=rows, **arguments), 6)
        mine = (np.arange(6)[:, None] * 6 + rows).reshape(-1)
        assert_same(share, {name: array[mine] for name, array in whole.items()})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_images_give_the_same_batches_from_every_source(tmp_path, num_workers):
    fields = texture(tmp_path / "images") | {"num_workers": num_workers}
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for path in sorted((tmp_path / "images").iterdir()):
            archive.add(path, path.name)
    folder = ImageFolder(str(tmp_path / "images"))
    prepare_dataset.prepare(folder, tmp_path / "shards", images_per_shard=2, size=None, num_workers=1)
    expected = None
    for name, path in {"folder": "images", "tar": "images.tar", "array_record": "shards"}.items():
        fields |= {"source": name, "path": str(tmp_path / path)}
        ours = take(pipeline.train_batches(fields, image_size=16, seed=3, global_batch=8), 4)
        expected = expected or ours
        assert_same(ours, expected)


def test_a_corrupt_record_is_named_and_replaced(tmp_path, monkeypatch):
    folder = ImageFolder(texture(tmp_path / "images")["path"])
    prepare_dataset.prepare(folder, tmp_path / "shards", images_per_shard=5, size=None, num_workers=1)
    (shard,) = (tmp_path / "shards").glob("*.array_record")
    content = bytearray(shard.read_bytes())
    content[content.rindex(b"IDAT") + 50] ^= 1
    shard.write_bytes(content)
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda message, *arguments: warnings.append(message % arguments))
    fields = config(source="array_record", path=str(tmp_path / "shards"), holdout=0.0, max_unreadable_share=0.5)
    taken = take(pipeline.train_batches(fields, image_size=16, seed=0, global_batch=5), 4)
    assert taken["unreadable"].sum() == 4  # once a pass
    assert len(warnings) == 1 and f"{shard} record 4: RuntimeError" in warnings[0]


def test_the_end_of_a_worker_ends_the_run(folder):
    fields = config(path=str(folder), num_workers=1)
    with pipeline.train_batches(fields, image_size=16, seed=0, global_batch=8) as batches:
        next(batches)
        batches._pool._workers[0]._process.kill()
        with pytest.raises(workers.WorkerDied, match="exit code -9"):
            for _ in range(10):
                next(batches)


def test_seeds_differ(tmp_path):
    fields = texture(tmp_path / "images")
    one, two = (take(pipeline.train_batches(fields, image_size=16, seed=s, global_batch=5), 4)["image"] for s in (0, 1))
    assert not (one == two).all((1, 2, 3)).any()


def test_evaluation_covers_everything_once_on_any_number_of_processes(folder):
    fields = config(path="unused", eval_path=str(folder))
    expected = [Image.open(path) for path in sorted(folder.rglob("*.png"))]
    for process_count in (1, 2):
        seen = {}
        for process in range(process_count):
            arguments = {"rows": np.arange(10).reshape(process_count, -1)[process]}
            with pipeline.eval_batches(fields, image_size=16, global_batch=10, **arguments) as batches:
                batches = list(batches)
            assert len(batches) == 3 and all(len(batch["index"]) == 10 // process_count for batch in batches)
            for batch in batches:
                for index, image, valid in zip(batch["index"], batch["image"], batch["valid"], strict=True):
                    assert valid == (index < 24)
                    if valid:
                        seen[index] = image
        assert sorted(seen) == list(range(24))
        for index, image in seen.items():
            np.testing.assert_array_equal(image, crops.center_crop(expected[index], 16))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_images_are_named_replaced_and_counted(folder, num_workers, monkeypatch):
    (folder / "class1" / "04.png").write_bytes(b"torn")
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda message, *arguments: warnings.append(message % arguments))
    fields = config(path=str(folder), holdout=0.0, max_unreadable_share=0.1, num_workers=num_workers)
    arguments = {"image_size": 16, "seed": 0, "global_batch": 12}
    taken = take(pipeline.train_batches(fields, **arguments), 4)
    assert taken["unreadable"].sum() == 2  # once a pass
    assert len(warnings) == 1 and "class1/04.png" in warnings[0] and "UnidentifiedImageError" in warnings[0]
    assert (taken["image"][..., 0] != 40).all()
    again = take(pipeline.train_batches(fields, start_sample=24, **arguments), 2)
    assert_same(again, {name: array[24:] for name, array in taken.items()})


def test_too_many_unreadable_images_stop_the_run(folder):
    for path in sorted(folder.rglob("*.png"))[::3]:
        path.write_bytes(b"torn")
    fields = config(path=str(folder), holdout=0.0, max_unreadable_share=0.2)
    with pytest.raises(pipeline.TooManyUnreadable, match=r"of the first \d+ .*data\.max_unreadable_share=0\.2"):
        take(pipeline.train_batches(fields, image_size=16, seed=0, global_batch=4), 20)


def test_a_folder_without_a_readable_image_stops_at_once(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"torn")
    with pytest.raises(pipeline.TooManyUnreadable, match="20 images drawn in turn"):
        take(pipeline.train_batches(config(path=str(folder)), image_size=16, seed=0, global_batch=4), 1)


def test_evaluation_does_not_count_unreadable_images(folder):
    (folder / "class0" / "00.png").write_bytes(b"torn")
    with pipeline.eval_batches(config(path="x", eval_path=str(folder)), image_size=16, global_batch=24) as batches:
        (batch,) = batches
    assert batch["unreadable"].tolist() == [1] + [0] * 23
    assert batch["valid"].tolist() == [False] + [True] * 23


@pytest.mark.parametrize(("rows", "says"), [([8, 10], r"rows \(8, 10\)"), ([-1], "rows"), ([], "rows")])
def test_rows_outside_the_batch_are_refused(folder, rows, says):
    with pytest.raises(ValueError, match=f"{says}.* are not all among the 10 of a global batch"):
        pipeline.train_batches(config(path=str(folder)), image_size=16, seed=0, global_batch=10, rows=rows)


def test_unknown_augment(folder):
    with pytest.raises(ValueError, match=r"augment='mixup': expected one of random_crop, random_region"):
        pipeline.train_batches(config(path=str(folder), augment="mixup"), image_size=16, seed=0, global_batch=8)
