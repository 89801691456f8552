import tracemalloc

import numpy as np
import pytest
from PIL import Image

from softvq_jax.config.data import default_data_config
from softvq_jax.data import crops
from softvq_jax.data.folder import ImageFolder
from softvq_jax.data.pipeline import eval_batches
from softvq_jax.evaluate.image_sets import ArrayImages, NpzImages, SourceImages, open_images
from softvq_jax.evaluate.predictions import check_pairs


def _levels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _folder(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return str(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_pieces_and_in_any_order(tmp_path, save):
    expected = _levels(11, 6, 5, 3)
    save(tmp_path / "images.npz", expected)
    images = open_images(str(tmp_path / "images.npz"))
    assert (len(images), images.shape) == (11, (6, 5, 3))
    for start, stop in ((8, 11), (0, 4), (3, 9)):
        np.testing.assert_array_equal(images.read(start, stop), expected[start:stop])


def test_an_npz_is_not_loaded_whole(tmp_path):
    np.savez(tmp_path / "images.npz", _levels(50, 64, 64, 3))
    tracemalloc.start()
    NpzImages(str(tmp_path / "images.npz")).read(40, 42)
    assert tracemalloc.get_traced_memory()[1] < 10 * 64 * 64 * 3
    tracemalloc.stop()


def test_the_array_of_an_npz_is_found_and_checked(tmp_path):
    def opened(**arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        return open_images(str(tmp_path / "x.npz"))

    assert len(opened(samples=_levels(2, 4, 4, 3))) == 2
    assert len(opened(arr_0=_levels(2, 4, 4, 3), arr_1=np.arange(2))) == 2
    with pytest.raises(ValueError, match="holds a, b; expected images in arr_0"):
        opened(a=_levels(2, 4, 4, 3), b=_levels(2, 4, 4, 3))
    with pytest.raises(ValueError, match="arr_0 is float32; expected uint8"):
        opened(arr_0=np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4, 4\); expected \[N, H, W, 3\]"):
        opened(arr_0=_levels(2, 3, 4, 4))


def test_a_truncated_npz_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", _levels(20, 8, 8, 3))
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"x.npz is not an .npz file, or is damaged"):
        open_images(str(tmp_path / "x.npz"))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    expected = _levels(5, 8, 6, 3)
    images = open_images(_folder(tmp_path / "a", expected))
    assert images.shape == (8, 6, 3) and images.crop() == "none"
    np.testing.assert_array_equal(images.read(1, 5), expected[1:])
    np.testing.assert_array_equal(open_images(str(tmp_path / "a" / "00[13].png")).read(0, 2), expected[[1, 3]])
    np.testing.assert_array_equal(open_images(str(tmp_path / "?")).read(0, 5), expected)  # a pattern of folders


def test_mixed_sizes_and_modes_are_named(tmp_path):
    folder = _folder(tmp_path / "a", [_levels(8, 8, 3), _levels(8, 9, 3)])
    with pytest.raises(ValueError, match=r"001.png is 8 x 9, but .*000.png is 8 x 8 .* --image_size"):
        open_images(folder).read(0, 2)
    folder = _folder(tmp_path / "b", [_levels(8, 8, 3), _levels(8, 8)])
    with pytest.raises(ValueError, match=r"001.png has mode L; expected 8-bit RGB"):
        open_images(folder).read(0, 2)


def test_cropping_equals_adms(tmp_path):
    originals = [_levels(40, 30, 3), _levels(20, 64)]
    images = open_images(_folder(tmp_path / "a", originals), size=12)
    assert images.crop() == "ADM center crop to 12"
    expected = [crops.center_crop(Image.fromarray(image), 12) for image in originals]
    np.testing.assert_array_equal(images.read(0, 2), expected)


def test_missing_files_are_named(tmp_path):
    for name in (str(tmp_path), str(tmp_path / "*.png"), str(tmp_path / "gone.npz")):
        with pytest.raises(FileNotFoundError):
            open_images(name)


def test_arrays_are_8_bit():
    with pytest.raises(ValueError, match=r"array is float64; .* round\(\(x \+ 1\) \* 127.5\)"):
        ArrayImages(np.zeros((2, 4, 4, 3)))


def test_pairs_fit_each_other(tmp_path):
    a = open_images(_folder(tmp_path / "a", _levels(3, 8, 8, 3)))
    check_pairs(a, ArrayImages(_levels(3, 8, 8, 3)))
    with pytest.raises(ValueError, match="3 images and array 2"):
        check_pairs(a, ArrayImages(_levels(2, 8, 8, 3)))
    with pytest.raises(ValueError, match="pairs need equal sizes"):
        check_pairs(a, ArrayImages(_levels(3, 8, 9, 3)))
    (tmp_path / "a" / "001.png").rename(tmp_path / "a" / "001x.png")
    with pytest.raises(ValueError, match=r"file 1 is '001x' in .* and '001' in"):
        check_pairs(open_images(str(tmp_path / "a")), open_images(_folder(tmp_path / "b", _levels(3, 8, 8, 3))))


def test_a_training_source_is_read_as_the_run_evaluates_it(tmp_path):
    folder = tmp_path / "photographs" / "class"
    folder.mkdir(parents=True)
    for i, size in enumerate([(40, 30), (20, 64), (33, 33), (16, 16)]):
        Image.fromarray(_levels(*size, 3)).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"no picture")
    photographs = ImageFolder(str(folder.parent))
    images = SourceImages(photographs, 12, 3, "photographs")
    assert len(images) == 3 and images.shape == (12, 12, 3) and images.version() == photographs.fingerprint()
    config = default_data_config() | {"max_unreadable_share": 1.0}
    with eval_batches(config, image_size=12, global_batch=4, source=photographs) as batches:
        expected = next(batches)["image"][:3]
    np.testing.assert_array_equal(images.read(0, 3), expected)
    assert (expected[2] == 0).all() and list(images.unreadable) == [2] and "2.png" in images.unreadable[2]
    (folder / "0.png").write_bytes(b"no picture")
    files = open_images(str(folder), 12)
    np.testing.assert_array_equal(files.read(1, 4), [expected[1], expected[2], files.read(3, 4)[0]])
    assert sorted(files.unreadable) == [0, 2]
