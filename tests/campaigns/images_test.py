"""300 images and archives, damaged in every way: the pixels of what was written, or a message that names it."""

import collections
import io

import numpy as np
import pytest
from PIL import Image

from softvq_jax.data import crops, decoding, tar
from softvq_jax.data.folder import ImageFile, ImageFolder
from softvq_jax.data.source import UnreadableImage
from tests.data import reported_inputs

IMAGES, ARCHIVES = 200, 100
FORMATS = {"png": {}, "jpg": {"quality": 90}, "webp": {"lossless": True}, "bmp": {}, "gif": {}, "tif": {}, "ppm": {}}
CHECKED = ("png",)  # formats with checksums: wrong bytes never decode
KINDS = {"jpg": "JPEG", "tif": "TIFF"}


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """A kind of damage, and the damaged bytes."""
    way = ("none", "cut", "flip", "zeros", "empty", "html", "doubled", "shifted")[rng.integers(8)]
    place = int(rng.integers(len(content)))
    return way, {
        "none": content,
        "cut": content[:place],
        "flip": content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :],
        "zeros": content[:place] + bytes(len(content) - place),
        "empty": b"",
        "html": b"<html>404 not found</html>",
        "doubled": content + content,
        "shifted": content[1:],
    }[way]


def by_pillow(content: bytes) -> np.ndarray | None:
    """What Pillow alone makes of the bytes of an image without rotation and transparency; None for an error."""
    try:
        image = Image.open(io.BytesIO(content), formats=decoding.FORMATS)
        image.load()
        return np.asarray(image.convert("RGB"))
    except Exception:
        return None


@pytest.mark.slow
def test_damaged_images(tmp_path, record_property):
    """Pixels are the original's or, in formats without checksums, those that Pillow alone reads from the same bytes."""
    found = collections.Counter()
    for number in range(IMAGES):
        rng = np.random.default_rng((1, number))
        ending = tuple(FORMATS)[rng.integers(len(FORMATS))]
        image = reported_inputs.picture(number, int(rng.integers(8, 90)), int(rng.integers(8, 90)))
        content = reported_inputs.encoded(image, KINDS.get(ending, ending.upper()), **FORMATS[ending])
        original = by_pillow(content)
        way, content = damaged(content, rng)
        path = tmp_path / f"{number}.{ending}"
        path.write_bytes(content)
        try:
            read, _ = ImageFile(str(path), 0).read()
        except UnreadableImage as error:
            assert str(path) in str(error) and "\n" not in str(error)
            wrong = by_pillow(content) is None or "checksum" in str(error)
            assert wrong, (way, ending, error)  # nothing that is whole is refused
            found["named"] += 1
            continue
        pixels = np.asarray(read)
        expected = original if way in ("none", "doubled") or ending in CHECKED else by_pillow(content)
        np.testing.assert_array_equal(pixels, expected, err_msg=f"{number} {way} {ending}")
        found["same" if np.array_equal(pixels, original) else "as Pillow reads it"] += 1
        assert crops.center_crop(read, 32).shape == (32, 32, 3)
    print(dict(found))
    record_property("found", dict(found))
    assert sum(found.values()) == IMAGES and found["named"] > 50 and found["same"] > 30


@pytest.mark.slow
def test_damaged_archives(tmp_path, monkeypatch, record_property):
    """Every image that is read is the one of its name; an archive that lost some is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = collections.Counter()
    for number in range(ARCHIVES):
        rng = np.random.default_rng((2, number))
        layout = ("cls", "json", "folders", "inner")[rng.integers(4)]
        pictures = {f"{i:03}": np.asarray(reported_inputs.picture(100 * number + i, 20, 16)) for i in range(6)}
        files, labels = {}, {}
        for i, (name, pixels) in enumerate(pictures.items()):
            folder = f"c{i % 3}/" if layout in ("folders", "inner") else ""
            files[f"{folder}{name}.png"], labels[name] = reported_inputs.encoded(Image.fromarray(pixels)), i % 3
            if layout in ("cls", "json"):
                files[f"{name}.{layout}"] = b"%d" % (i % 3) if layout == "cls" else b'{"label": %d}' % (i % 3)
        if layout == "inner":
            inner = {}
            for c in range(3):
                of = {name.split("/")[1]: content for name, content in files.items() if name.startswith(f"c{c}/")}
                inner[f"c{c}.tar"] = reported_inputs.tar(tmp_path / "inner.tar", of).read_bytes()
            files = inner
        path = tmp_path / f"{number}.tar"
        content = reported_inputs.tar(path, files).read_bytes()
        way, content = damaged(content, rng)
        path.write_bytes(content)
        try:
            opened = tar.TarShards(str(path))
        except (ValueError, OSError) as error:
            assert str(path) in str(error) and "\n" not in str(error), (way, error)
            found["refused"] += 1
            continue
        if way == "doubled":
            assert len(opened) == 12
        elif way in ("none", "cut", "shifted"):  # zeros are how an archive ends, so that these cannot be told apart
            assert len(opened) == 6, (way, layout)
        for i in range(len(opened)):
            name = opened.key(i).rsplit("/", 1)[1].split(".")[0]
            try:
                image, label = opened[i].read()
            except UnreadableImage as error:
                assert str(path) in str(error)
                found["images named"] += 1
                continue
            if way == "flip" and name not in pictures:
                continue  # the flipped bit is in a name, whose header checksum finds it, or in a folder's
            np.testing.assert_array_equal(np.asarray(image), pictures[name], err_msg=f"{number} {way} {layout}")
            assert label == labels[name] or way == "flip"
            found["images same"] += 1
    print(dict(found))
    record_property("found", dict(found))
    assert found["refused"] > 30 and found["images same"] > 100


@pytest.mark.slow
def test_folders_with_everything(tmp_path):
    """Damaged images among whole ones: every image is its own file's, whole or named."""
    for i in range(60):
        reported_inputs.write(tmp_path / "data", f"c{i % 4}/{i}.png")
        if i % 5 == 0:
            (tmp_path / "data" / f"c{i % 4}" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(i))
    source, named = ImageFolder(str(tmp_path / "data")), 0
    for i in range(len(source)):
        number = int(source.key(i).split("/")[1][:-4])
        try:
            image, label = source[i].read()
        except UnreadableImage:
            named += number % 5 == 0
            continue
        assert label == number % 4
        np.testing.assert_array_equal(np.asarray(image), np.asarray(reported_inputs.picture(0)))
    assert named == 12
