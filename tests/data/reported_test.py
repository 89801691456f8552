"""Inputs that people report as read wrongly: what must come of each."""

import collections
import os

import numpy as np
import pytest
from absl import logging
from PIL import Image

from softvq_jax.config.data import default_data_config
from softvq_jax.data import crops, decoding, folder, samples, sources, tar
from softvq_jax.data.decoding import Decoding, UnreadableImage, decode
from softvq_jax.data.folder import ImageFile, ImageFolder, list_images
from tests.data import reported_inputs


@pytest.fixture
def said(monkeypatch):
    """The warnings that are logged."""
    lines = []
    folder.warn_once.cache_clear()
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    return lines


def labels(opened):
    return collections.Counter(opened.class_names[opened[i].label] for i in range(len(opened)))


def test_exif_orientation(tmp_path):
    where = reported_inputs.exif(tmp_path / "exif")
    upright = np.asarray(Image.open(tmp_path / "upright.png")).astype(int)
    for i in range(1, 9):
        image, _ = ImageFile(str(where / f"{i}.jpg"), 0).read()
        assert image.size == (60, 80) and np.abs(np.asarray(image) - upright).mean() < 3, i
        assert (0x112 not in image.getexif() and "exif" not in image.info) or i == 1
        stored, _ = ImageFile(str(where / f"{i}.jpg"), 0).read(Decoding(exif="ignore"))
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(Image.open(where / f"{i}.jpg")))


def test_jpegs_without_rotation_are_read_as_adm_does():
    """`Image.open(...).convert("RGB")`, then the crop: bit for bit, also with the fields' former habits."""
    for seed, mode in enumerate(("RGB", "L", "CMYK")):
        content = reported_inputs.encoded(reported_inputs.picture(seed, 130, 97).convert(mode), "JPEG", quality=90)
        plain = Image.open(reported_inputs.io.BytesIO(content)).convert("RGB")
        for how in (Decoding(), Decoding(exif="ignore", background="ignore")):
            np.testing.assert_array_equal(np.asarray(decode(content, "", how)), np.asarray(plain))
            np.testing.assert_array_equal(crops.center_crop(decode(content, "", how), 64), crops.center_crop(plain, 64))


def test_transparency_shows_the_background():
    expected = np.full((64, 64, 3), 255)
    expected[20:44, 20:44] = (0, 200, 0)
    for name, content in reported_inputs.transparent().items():
        np.testing.assert_array_equal(np.asarray(decode(content, name)), expected, err_msg=name)
        orange = np.where(expected == 255, (255, 128, 0), expected)
        np.testing.assert_array_equal(
            np.asarray(decode(content, name, Decoding(background="#ff8000"))), orange, err_msg=name
        )
    magenta = reported_inputs.transparent()["magenta.png"]
    assert np.asarray(decode(magenta, "", Decoding(background="ignore")))[0, 0].tolist() == [255, 0, 255]
    with pytest.raises(ValueError, match="background='mauv': expected a color"):
        Decoding(background="mauv")


def test_every_ending_is_read_and_others_are_named_once(tmp_path, said):
    names = [f"p{i}.{e}" for i, e in enumerate((*reported_inputs.JPEG_ENDINGS, *reported_inputs.OTHER_ENDINGS))]
    where = reported_inputs.write(tmp_path / "endings", *names)
    (where / "p.heic").write_bytes(b"x")
    for _ in range(2):
        assert len(ImageFolder(str(where))) == len(list_images(str(where))) == 9
    assert [line for line in said if "heic" in line] == [
        f"{where}: 1 file (1 .heic, such as p.heic) not read; image files end in {' '.join(decoding.EXTENSIONS)}"
    ]
    for path in list_images(str(where)):
        np.testing.assert_array_equal(
            np.asarray(ImageFile(path, 0).read()[0]), np.asarray(Image.open(path).convert("RGB"))
        )


def test_only_documented_formats_are_opened(tmp_path):
    """A file named .jpg that holds PostScript would start Ghostscript."""
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    assert Image.open(reported_inputs.io.BytesIO(content)).format == "EPS"
    with pytest.raises(UnreadableImage, match="not an image of the formats BMP, GIF, JPEG"):
        decode(content, "a.jpg")


def test_junk_is_no_data(tmp_path):
    where = reported_inputs.junk(tmp_path / "junk")
    assert labels(ImageFolder(str(where))) == {"cat": 6, "dog": 6} and len(list_images(str(where))) == 12


def test_links_are_followed_and_loops_named(tmp_path):
    where = reported_inputs.links(tmp_path / "links")
    assert labels(ImageFolder(str(where))) == {"ape": 6, "wolf": 6, "zoo": 7} and len(list_images(str(where))) == 19
    os.symlink(where / "nowhere", where / "ape" / "dangling.jpg")
    assert len(ImageFolder(str(where))) == 20  # unreadable, and counted as such when it is read
    (where.parent / "store" / "inner").mkdir()
    os.symlink(where, where.parent / "store" / "wolf" / "back")
    for opened in (ImageFolder, list_images):
        with pytest.raises(ValueError, match=r"links/.*back is a link to .*links, which holds it: a loop"):
            opened(str(where))


def test_images_beside_folders_are_never_left_out_silently(tmp_path, said):
    names = [*(f"DSC_{i}.jpg" for i in range(20)), *(f"thumbnails/DSC_{i}.jpg" for i in range(2))]
    where = reported_inputs.write(tmp_path / "beside", *names)
    with pytest.raises(ValueError, match=r"20 images .* beside 1 folder with 2 images.*data\.classes='folders'"):
        ImageFolder(str(where))
    assert len(ImageFolder(str(where), "folders")) == 2 and any("20 images beside the folders" in s for s in said)
    assert len(ImageFolder(str(where), "one")) == len(list_images(str(where))) == 22


def test_flat_folders(tmp_path, said):
    names = [f"n0144076{i % 4}_{i}_n0144076{i % 4}.JPEG" for i in range(16)]
    where = reported_inputs.write(tmp_path / "flat", *names)
    assert ImageFolder(str(where)).class_names == ("",) and "16 images of one class" in said[0]
    assert labels(ImageFolder(str(where), "names")) == {f"n0144076{i}": 4 for i in range(4)}
    with pytest.raises(ValueError, match="no subfolders with images"):
        ImageFolder(str(where), "folders")
    reported_inputs.write(where, "plain.jpg")
    with pytest.raises(ValueError, match=r"plain\.jpg has no '_'"):
        ImageFolder(str(where), "names")


@pytest.mark.parametrize("form", ["csv", "pairs", "order"])
def test_imagenets_validation_images_lie_in_one_folder(tmp_path, form):
    """The held-out classes get the numbers of the training classes, also if some have no image."""
    wnids = ("n02", "n01", "n04", "n02")
    names = [f"ILSVRC2012_val_0000000{i + 1}" for i in range(4)]
    reported_inputs.write(tmp_path / "val", *(f"{name}.JPEG" for name in names))
    reported_inputs.write(tmp_path / "train", *(f"n0{i}/n0{i}_1.JPEG" for i in range(1, 6)))
    lines = {
        "csv": [
            "ImageId,PredictionString",
            *(f"{n},{w} 1 2 3 4 {w} 5 6 7 8" for n, w in zip(names, wnids, strict=True)),
        ],
        "pairs": [f"{n}.JPEG {w}" for n, w in zip(names, wnids, strict=True)],
        "order": wnids,
    }[form]
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    fields = default_data_config() | {"path": str(tmp_path / "train"), "eval_path": str(tmp_path / "val")}
    fields["eval_label_file"] = str(tmp_path / "labels.txt")
    train = sources.training_source(fields)
    held_out = sources.held_out_source(fields, 16, training=train)
    found = {held_out.key(i): train.class_names[held_out[i].label] for i in range(4)}
    assert found == {f"{n}.JPEG": w for n, w in zip(names, wnids, strict=True)}
    (tmp_path / "labels.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"labels\.txt has (3 lines|no line for ILSVRC2012_val_00000004)"):
        sources.held_out_source(fields, 16, training=train)


def test_the_development_kits_numbers_are_refused(tmp_path):
    where = reported_inputs.write(tmp_path / "val", "a.jpg")
    path = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("490\n")
    with pytest.raises(ValueError, match=r"not in the order of the sorted class names: use LOC_val_solution\.csv"):
        ImageFolder(str(where), label_file=str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a.jpg -5", "has a class '-5'; expected a name, or a number from 0 on"),
        (b"-5", "has a class '-5'"),
        (b"a.jpg " + b"1" * 5000, "has a class '111"),
        (b"a.jpg,", "has a class ''"),
        (b"a.jpg," + b"1" * 200_000, "not a text file of image names and classes"),
        (b"a.jpg 1\na.jpg 2", "gives a.jpg several classes: 1, 2"),
        (b"a 1\na.png 2", "gives a.jpg several classes: 1, 2"),
    ],
)
def test_other_classes_in_label_files_are_named(content, says, tmp_path):
    where = reported_inputs.write(tmp_path / "val", "a.jpg")
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        ImageFolder(str(where), label_file=str(path))
    assert str(path) in str(caught.value)


def test_names_in_label_files_are_taken_with_their_endings_first(tmp_path):
    where = reported_inputs.write(tmp_path / "val", "a.jpg", "a.png")
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfa.jpg,x\na.png,y\n")  # with a byte order mark
    folder = ImageFolder(str(where), label_file=str(tmp_path / "labels.txt"))
    assert {folder.key(i): folder.class_names[folder[i].label] for i in range(2)} == {"a.jpg": "x", "a.png": "y"}


def test_held_out_classes_are_those_of_training_by_name(tmp_path):
    reported_inputs.write(tmp_path / "train", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    reported_inputs.write(tmp_path / "val", "c/1.jpg", "a/1.jpg")
    fields = default_data_config() | {"path": str(tmp_path / "train"), "eval_path": str(tmp_path / "val")}
    held_out = sources.held_out_source(fields, 16, training=sources.training_source(fields))
    assert [(held_out.key(i), held_out[i].label) for i in range(2)] == [("a/1.jpg", 0), ("c/1.jpg", 2)]


@pytest.mark.parametrize("label", ["json", "cls"])
def test_webdataset_labels(tmp_path, label):
    opened = tar.TarShards(str(reported_inputs.tar(tmp_path / "0.tar", reported_inputs.webdataset(label))))
    assert [opened[i].label for i in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_archives_without_labels_say_so(tmp_path, said):
    opened = tar.TarShards(str(reported_inputs.tar(tmp_path / "0.tar", {"a.png": b"", "b.png": b""})))
    assert opened.class_names == ("",) and "2 images without labels" in said[0]


def test_thin_images_are_cropped_and_large_ones_have_a_limit(tmp_path):
    """A panorama beyond Pillow's own limit is read, and `data.max_pixels` is the limit."""
    Image.new("RGB", (60_000, 1)).save(tmp_path / "spacer.png")
    content = reported_inputs.encoded(Image.new("L", (2000, 1000), 128))
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = 100_000
        assert decode(content, "panorama").size == (2000, 1000) and Image.MAX_IMAGE_PIXELS == 100_000
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    [(thin, _)] = samples.evaluation(256)([ImageFile(str(tmp_path / "spacer.png"), 0)], [0])
    assert thin.shape == (256, 256, 3)
    with pytest.raises(UnreadableImage, match=r"2,000 x 1,000 pixels are more than data\.max_pixels=1999999"):
        decode(content, "panorama", Decoding(max_pixels=1_999_999))


def test_an_image_that_needs_too_much_memory_is_unreadable(tmp_path, monkeypatch):
    where = reported_inputs.write(tmp_path, "a.png")

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(crops, "center_crop", exhausted)
    [error] = samples.evaluation(16)([ImageFile(str(where / "a.png"), 0)], [0])
    assert isinstance(error, UnreadableImage) and "MemoryError" in str(error)


def test_names_that_no_system_takes_are_unreadable_images():
    for name in ("x" * 5000 + ".png", "a\0b.png"):
        with pytest.raises(UnreadableImage):
            ImageFile(name, 0).read()


def test_paths_are_expanded(tmp_path, monkeypatch):
    reported_inputs.write(tmp_path / "home" / "images", "a/1.png")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IMAGES", str(tmp_path / "home" / "images"))
    for path in ("~/images", "$IMAGES", "${IMAGES}"):
        assert len(ImageFolder(path)) == len(list_images(path)) == 1


@pytest.mark.parametrize(
    ("ending", "source"), [("tar", "tar"), ("parquet", "parquet"), ("array_record", "array_record")]
)
def test_a_folder_of_another_kind_of_data_is_told_apart(tmp_path, ending, source):
    (tmp_path / f"train-0.{ending}").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=rf"it holds train-0\.{ending}: set data\.source='{source}'"):
        ImageFolder(str(tmp_path))
