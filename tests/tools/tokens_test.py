import json

import numpy as np
import pytest
from PIL import Image

from softvq_jax.report import token_pictures
from softvq_jax.report.image_grid import CAPTION, captioned
from softvq_jax.tools import tokens
from tests import small_tokenizers as small


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer, and three images of other sizes."""
    work = tmp_path_factory.mktemp("tokens")
    small.tokenizer(small.config("softvq")).save_pretrained(work / "tokenizer")
    (work / "images").mkdir()
    for i, size in enumerate([(40, 50), (64, 32), (33, 90)]):
        picture = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(picture).save(work / "images" / f"{i}.png")
    return work


def run(folders, out, *arguments):
    flags = [
        "tokens",
        *arguments,
        f"--from={folders / 'tokenizer'}",
        "--images",
        str(folders / "images"),
        f"--out={out}",
    ]
    tokens.main(tokens.parse_flags(flags))


@pytest.mark.slow
def test_effects(folders, tmp_path, capsys):
    run(folders, tmp_path, "effect", "--num=2")
    run(folders, tmp_path, "effect", "--replace=swap")
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"effect_zero_{i:02d}.png" for i in range(2)} | {f"effect_swap_{i:02d}.png" for i in range(3)} < names
    assert "effect_zero_02.png" not in names
    found = json.loads((tmp_path / "effect_zero.json").read_text())
    assert len(found["mean change by token"]) == small.NUM_TOKENS and len(found["images"]) == 2
    assert str(tmp_path / "effect_zero_00.png") in capsys.readouterr().out


def test_attention_and_codes(folders, tmp_path):
    run(folders, tmp_path, "attention", "--layer=0")
    run(folders, tmp_path, "codes", "--codes=3")
    with np.load(tmp_path / "attention.npz") as arrays:
        assert arrays["encoder"].shape == arrays["decoder"].shape == (3, small.NUM_TOKENS, 4, 4)
    codes = json.loads((tmp_path / "codes.json").read_text())
    assert np.shape([image["codes of each token"] for image in codes["images"]]) == (3, small.NUM_TOKENS, 3)
    assert Image.open(tmp_path / "codes.png").size[1] == 3 * (96 + CAPTION) + 2 * 2


def test_the_map_shows_the_token_with_the_largest_effect():
    maps = np.zeros((2, 4, 8))
    maps[0, :, :4], maps[1, :, 4:] = 1, 3
    image = np.zeros((4, 8, 3), np.uint8)
    picture = token_pictures.effect_maps(image, image, maps)
    red, other = token_pictures.token_colors(2)
    third = picture[: 12 * 4, 2 * 98 : 2 * 98 + 96]
    assert (third[:, :48] == red).all() and (third[:, 48:] == other).all()
    heat = picture[48 + CAPTION + 2 : 2 * 48 + CAPTION + 2, 98 : 98 + 96]
    assert (heat[:, 48:] == 255).all() and (heat[:, :48] == 0).all()


def test_captions_are_below_the_images_and_fit():
    images = np.full((2, 4, 48, 3), 7, np.uint8)
    found = captioned(images, ["", "a very long name of a class of images"])
    assert found.shape == (2, 8 + CAPTION, 96, 3) and (found[:, :8] == 7).all()
    assert (found[0, 8:] == 255).all() and (found[1, 8:] < 128).any() and (found[1, 8:, -1] == 255).all()
