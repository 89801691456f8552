import io
import tarfile

import numpy as np
import pytest

from softvq_jax.data import tar
from softvq_jax.data.source import UnreadableImage
from tests.data.photographs import pixels, png


def write_tar(path, files):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def assert_images(shards, expected):
    """`expected`: numbers of the images and labels, in order."""
    assert len(shards) == len(expected)
    for i, (number, label) in enumerate(expected):
        image, ours = shards[i].read()
        assert ours == label
        np.testing.assert_array_equal(np.asarray(image), pixels(number))


def test_webdataset_layout(tmp_path):
    write_tar(tmp_path / "shards" / "01.tar", {"c.cls": b"2\n", "c.PNG": png(3)})
    write_tar(
        tmp_path / "shards" / "00.tar",
        {"a.png": png(1), "a.cls": b"5", "a.json": b"{}", "b.png": png(2), "b.cls": b"0"},
    )
    shards = tar.TarShards(str(tmp_path / "shards"))
    assert_images(shards, [(1, 5), (2, 0), (3, 2)])
    assert shards.class_names == ("0", "1", "2", "3", "4", "5")
    assert [shards.key(i) for i in range(3)] == ["00.tar/a.png", "00.tar/b.png", "01.tar/c.PNG"]


def test_folder_layout(tmp_path):
    path = write_tar(
        tmp_path / "all.tar", {"x/dog/1.png": png(1), "x/cat/2.png": png(2), "x/cat/._2.png": b"", "x/readme": b""}
    )
    shards = tar.TarShards(str(path))
    assert_images(shards, [(1, 1), (2, 0)])
    assert shards.class_names == ("cat", "dog")


def test_archives_of_the_current_folder(tmp_path):
    """`tar --create --directory=images .` puts `./` before each name."""
    path = write_tar(tmp_path / "all.tar", {"./dog/1.png": png(1), "./cat/2.png": png(2), "./.hidden/3.png": png(3)})
    shards = tar.TarShards(str(path))
    assert_images(shards, [(1, 1), (2, 0)])
    assert shards.class_names == ("cat", "dog") and shards.key(0) == "all.tar/dog/1.png"
    flat = tar.TarShards(str(write_tar(tmp_path / "flat.tar", {"./1.png": png(1)})))
    assert flat.class_names == ("",)


def test_tar_of_tars(tmp_path):
    """ImageNet's training archive."""
    inner = {}
    for name, numbers in {"n02": (3, 4), "n01": (1,)}.items():
        path = write_tar(tmp_path / f"{name}.tar", {f"{name}_{number}.png": png(number) for number in numbers})
        inner[path.name] = path.read_bytes()
    shards = tar.TarShards(str(write_tar(tmp_path / "train" / "all.tar", inner)))
    assert_images(shards, [(3, 1), (4, 1), (1, 0)])
    assert shards.class_names == ("n01", "n02")


def test_index_is_made_once_and_again_when_the_shard_changes(tmp_path, monkeypatch):
    made = []
    index = tar._index
    monkeypatch.setattr(tar, "_index", lambda shard: made.append(shard) or index(shard))
    path = write_tar(tmp_path / "all.tar", {"a/1.png": png(1)})
    before = tar.TarShards(str(path)).fingerprint()
    assert_images(tar.TarShards(str(path)), [(1, 0)])
    assert len(made) == 1 and tar.TarShards(str(path)).fingerprint() == before

    write_tar(path, {"b/2.png": png(2), "a/1.png": png(1)})
    assert_images(tar.TarShards(str(path)), [(2, 1), (1, 0)])
    assert len(made) == 2 and tar.TarShards(str(path)).fingerprint() != before


@pytest.mark.parametrize("damage", [lambda content: content[:40], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_cached_index_is_made_again(damage, tmp_path):
    path = str(write_tar(tmp_path / "a.tar", {"x/1.png": png(1), "y/2.png": png(2)}))
    tar.TarShards(path)
    [index] = (tmp_path / "cache").rglob("*.npz")
    content = index.read_bytes()
    index.write_bytes(damage(content))
    assert_images(tar.TarShards(path), [(1, 0), (2, 1)])
    assert index.read_bytes()[:4] == content[:4] and len(index.read_bytes()) == len(content)


@pytest.mark.parametrize(
    "other",
    [
        {"names": np.array([b"x/1.png"])},
        {"offsets": np.array([0.0, 1.0])},
        {"offsets": np.array([10**9, 0])},
        {"sizes": np.array([-1, 5])},
        {"numbered": np.array([True, False])},
        {"numbered": np.array(True)},  # of classes that are names
        {"more": np.zeros(2)},
    ],
)
def test_a_cached_index_of_another_form_is_made_again(other, tmp_path):
    path = str(write_tar(tmp_path / "a.tar", {"x/1.png": png(1), "y/2.png": png(2)}))
    tar.TarShards(path)
    [index] = (tmp_path / "cache").rglob("*.npz")
    with np.load(index) as found:
        arrays = dict(found)
    np.savez(index, **(arrays | other))
    assert_images(tar.TarShards(path), [(1, 0), (2, 1)])
    with np.load(index) as found:
        assert found.files == list(arrays)


def test_an_unwritable_cache_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_images(tar.TarShards(str(write_tar(tmp_path / "all.tar", {"a/1.png": png(1)}))), [(1, 0)])


def test_a_broken_image_is_named(tmp_path):
    path = write_tar(tmp_path / "all.tar", {"a/1.png": png(1)[:100]})
    with pytest.raises(UnreadableImage, match=r"all\.tar:a/1\.png: OSError"):
        tar.TarShards(str(path))[0].read()


def test_archives_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tar file at"):
        tar.TarShards(str(tmp_path / "nothing.tar"))
    with pytest.raises(FileNotFoundError, match=r"no image in the tar files.*\.jpeg"):
        tar.TarShards(str(write_tar(tmp_path / "text.tar", {"a.txt": b"x"})))
    with pytest.raises(ValueError, match=r"b\.png has no \.cls file"):
        tar.TarShards(str(write_tar(tmp_path / "half.tar", {"a.png": png(1), "a.cls": b"1", "b.png": png(2)})))

    whole = write_tar(tmp_path / "whole.tar", {"a/1.png": png(1), "a/2.png": png(2)}).read_bytes()
    for length in (1000, 2048, 2500, 3500, 4096):  # in a picture, between two, in a header, in the other, at the end
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.tar is not a complete, uncompressed tar \("):
            tar.TarShards(str(tmp_path / "cut.tar"))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "whole.tar", "1.png")
    with pytest.raises(ValueError, match=r"packed\.tar is compressed.*gunzip"):
        tar.TarShards(str(tmp_path / "packed.tar"))


def test_webdataset_labels(tmp_path):
    """Numbers in .json, keys up to the first dot; a .cls counts more than a .json."""
    files = {}
    for i in range(4):
        files |= {f"{i}.input.jpg.png": png(i), f"{i}.json": b'{"label": %d, "caption": "x"}' % (3 - i)}
    assert_images(tar.TarShards(str(write_tar(tmp_path / "json.tar", files))), [(i, 3 - i) for i in range(4)])
    files |= {f"{i}.cls": b"%d" % i for i in range(4)}
    assert_images(tar.TarShards(str(write_tar(tmp_path / "both.tar", files))), [(i, i) for i in range(4)])
    captions = {"0.png": png(0), "0.json": b'{"caption": "x"}'}
    assert tar.TarShards(str(write_tar(tmp_path / "captions.tar", captions))).class_names == ("",)
    dots = {"a.1.png": png(1), "a.1.cls": b"4", "a.2.png": png(2), "a.2.cls": b"1"}
    assert_images(tar.TarShards(str(write_tar(tmp_path / "dots.tar", dots))), [(1, 4), (2, 1)])
    with pytest.raises(ValueError, match=r"dots\.tar: a\.3\.png has no \.cls"):
        tar.TarShards(str(write_tar(tmp_path / "dots.tar", dots | {"a.3.png": png(3)})))


@pytest.mark.parametrize("label", ["-5", "1000000000000", "cat", "", "3.5"])
def test_labels_that_are_no_class_numbers_are_named(tmp_path, label):
    write_tar(tmp_path / "t.tar", {"a.png": png(1), "a.cls": label.encode()})
    with pytest.raises(ValueError, match=rf"t\.tar: a\.cls holds '{label}'; expected a class number from 0"):
        tar.TarShards(str(tmp_path / "t.tar"))
    write_tar(tmp_path / "t.tar", {"a.png": png(1), "a.json": b'{"label": "%s"}' % label.encode()})
    with pytest.raises(ValueError, match=rf'"label" in a\.json holds \'{label}\''):
        tar.TarShards(str(tmp_path / "t.tar"))


def test_archives_one_after_the_other(tmp_path):
    a = write_tar(tmp_path / "a.tar", {"x/1.png": png(1), "y/2.png": png(2)}).read_bytes()
    b = write_tar(tmp_path / "b.tar", {"y/3.png": png(3)}).read_bytes()
    (tmp_path / "both.tar").write_bytes(a + bytes(70_000 // 512 * 512) + b)
    assert_images(tar.TarShards(str(tmp_path / "both.tar")), [(1, 0), (2, 1), (3, 1)])
    inner = write_tar(tmp_path / "inner.tar", {"one.tar": a + b, "two.tar": b})
    assert_images(tar.TarShards(str(inner)), [(1, 0), (2, 0), (3, 0), (3, 1)])
    (tmp_path / "both.tar").write_bytes(a + b"no archive" + b)
    with pytest.raises(ValueError, match=r"both\.tar is not a complete"):
        tar.TarShards(str(tmp_path / "both.tar"))


def test_patterns_of_shards(tmp_path):
    for i in range(3):
        write_tar(tmp_path / f"s-{i:02}.tar", {f"{'ab'[i % 2]}/{i}.png": png(i)})
    every = [(0, 0), (1, 1), (2, 0)]
    assert_images(tar.TarShards(f"{tmp_path}/*.tar"), every)
    assert_images(tar.TarShards(f"{tmp_path}/s-{{00..02}}.tar"), every)
    assert_images(tar.TarShards(f"{tmp_path}/s-{{00,02}}.tar"), [(0, 0), (2, 0)])
    with pytest.raises(FileNotFoundError, match=r"s-03\.tar is missing"):
        tar.TarShards(f"{tmp_path}/s-{{00..03}}.tar")
    (tmp_path / "more.tar.gz").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "more.tar.gz"):
        with pytest.raises(ValueError, match=r"more\.tar\.gz is compressed.*unpack it"):
            tar.TarShards(str(path))


def test_junk_in_archives_is_no_data(tmp_path):
    files = {"__MACOSX/a/._1.png": b"x", "a/._1.png": b"x", "a/.ipynb_checkpoints/1.png": png(2), "a/1.png": png(1)}
    assert_images(tar.TarShards(str(write_tar(tmp_path / "t.tar", files))), [(1, 0)])
