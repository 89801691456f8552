import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.generator import Generator
from softvq_jax.report.image_grid import CAPTION
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools import denoise
from tests import small_generators
from tests.tools.sample_test import save_generator


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return save_generator(root / "generator"), small_generators.save_tokenizer(root / "tokenizer")


def run(folders, out, *more):
    argv = [
        "denoise",
        f"--from={folders[0]}",
        f"--tokenizer={folders[1]}",
        f"--out={out}",
        "--classes=ant,5",
        "--num=2",
    ]
    denoise.main(denoise.parse_flags([*argv, "--steps=4", *more]))


def test_a_strip_ends_with_the_samples(folders, tmp_path, capsys):
    run(folders, tmp_path / "strip.png", "--frames=3")
    picture = np.asarray(Image.open(tmp_path / "strip.png"))
    assert picture.shape == (2 * (96 + CAPTION) + 2, 3 * 96 + 4, 3)
    generator, tokenizer = Generator.from_pretrained(folders[0]), Tokenizer.from_pretrained(folders[1])
    images = np.asarray(tokenizer.decode(generator.sample([0, 5], key=jax.random.key(0), steps=4)))
    expected = np.round((images + 1) * 127.5)
    last = [picture[top : top + 96 : 3, 196:292:3] for top in (0, 96 + CAPTION + 2)]
    np.testing.assert_allclose(last, expected, atol=1)
    assert "2 samples, 3 of 4 steps" in capsys.readouterr().out


def test_an_animation_has_all_frames(folders, tmp_path):
    run(folders, tmp_path / "samples.gif")
    with Image.open(tmp_path / "samples.gif") as animation:
        assert animation.n_frames == 4 and animation.size == (2 * 96 + 2, 96 + CAPTION)
        animation.seek(3)
        assert animation.info["duration"] == 2000


def test_other_endings_are_refused(folders, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(folders, tmp_path / "strip.jpg")
    assert "expected a file ending in .png or .gif" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "count", "expected"), [(250, 3, [0, 124, 249]), (3, 8, [0, 1, 2]), (5, 1, [4])])
def test_frames_are_evenly_spaced(steps, count, expected):
    np.testing.assert_allclose(denoise.frames(steps, count), expected, atol=1)
