"""Parquet files as the Hub stores image sets, written by pyarrow."""

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from softvq_jax.data.parquet import ParquetShards
from softvq_jax.data.source import UnreadableImage
from tests.data.photographs import pixels, png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, labels, first=0, names=None, **columns):
    """A file of images, `first` and the following, in row groups of two."""
    images = [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels} | columns)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def assert_images(source, expected):
    assert len(source) == len(expected)
    for i, (number, label) in enumerate(expected):
        image, ours = source[i].read()
        assert ours == label
        np.testing.assert_array_equal(np.asarray(image), pixels(number))


def test_files_as_the_hub_stores_them(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1, 2], names=["cat", "dog", "eel"])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", [2, 0], first=3, names=["cat", "dog", "eel"])
    every = [(0, 0), (1, 1), (2, 2), (3, 2), (4, 0)]
    for path in ("", "data", "data/train-*.parquet", "data/train-{00000..00001}-of-00002.parquet"):
        source = ParquetShards(str(tmp_path / path))
        assert_images(source, every)
        assert source.class_names == ("cat", "dog", "eel")
    before = source.fingerprint()
    write(tmp_path / "data" / "train-00001-of-00002.parquet", [2, 1], first=3, names=["cat", "dog", "eel"])
    assert ParquetShards(str(tmp_path)).fingerprint() != before


def test_numbers_and_names_and_no_labels(tmp_path):
    write(tmp_path / "numbers.parquet", [3, 0, 1])
    assert ParquetShards(str(tmp_path / "numbers.parquet")).class_names == ("0", "1", "2", "3")
    write(tmp_path / "names.parquet", ["b", "a", "b"])
    source = ParquetShards(str(tmp_path / "names.parquet"))
    assert source.class_names == ("a", "b") and [source[i].label for i in range(3)] == [1, 0, 1]
    pq.write_table(pa.table({"img": [png(1), png(2)]}), tmp_path / "plain.parquet")
    source = ParquetShards(str(tmp_path / "plain.parquet"))
    assert_images(source, [(1, 0), (2, 0)])
    assert source.class_names == ("",)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        ParquetShards(str(tmp_path / "nothing.parquet"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet is not a complete Parquet file"):
        ParquetShards(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="has the columns text; expected images"):
        ParquetShards(str(tmp_path / "text.parquet"))
    for label in (-5, 10**12):
        write(tmp_path / "label.parquet", [0, label])
        with pytest.raises(ValueError, match=rf"such as {label}: expected class numbers from 0"):
            ParquetShards(str(tmp_path / "label.parquet"))
    broken = io.BytesIO()
    Image.new("RGB", (9, 9)).save(broken, "PNG")
    images = [{"bytes": broken.getvalue()[:40], "path": "a"}, {"bytes": None, "path": "b.png"}]
    pq.write_table(pa.table({"image": images}), tmp_path / "broken.parquet")
    source = ParquetShards(str(tmp_path / "broken.parquet"))
    for i, reason in enumerate(("row group 0 row 0", "no bytes of an image in it")):
        with pytest.raises(UnreadableImage, match=reason):
            source[i].read()


@pytest.mark.parametrize(
    "labels", [[[1], [2]], [[1, 2], []], [{"a": 1}] * 2, [None, 1], [0.5, 1.0], [-1, 0], [0, 10**12]]
)
def test_other_labels_are_named(labels, tmp_path):
    write(tmp_path / "a.parquet", labels)
    with pytest.raises(ValueError, match=str(tmp_path)) as caught:
        ParquetShards(str(tmp_path / "a.parquet"))
    assert "\n" not in str(caught.value)


def test_files_with_other_kinds_of_labels_and_without_rows(tmp_path):
    write(tmp_path / "a.parquet", [1, 0])
    write(tmp_path / "b.parquet", [])
    assert_images(ParquetShards(str(tmp_path)), [(0, 1), (1, 0)])
    write(tmp_path / "c.parquet", ["cat"])
    with pytest.raises(ValueError, match="names as labels, others numbers"):
        ParquetShards(str(tmp_path))


def test_damaged_files_are_named_and_checksums_of_pages_are_checked(tmp_path):
    path, rng, labels, found = tmp_path / "a.parquet", random.Random(0), [0, 1, 2] * 4, set()
    table = pa.table({"image": [png(1)] * 12, "label": labels})
    pq.write_table(table, path, row_group_size=5, write_page_checksum=True)
    content = path.read_bytes()
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 3))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            assert [image.label for image in ParquetShards(str(path))] == labels
            found.add("read")
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            found.add("named")
    assert found == {"read", "named"}
