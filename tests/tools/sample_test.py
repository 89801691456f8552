"""Sampling images: files, resuming, refusals, and independence of the devices."""

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.evaluate.image_sets import open_images
from softvq_jax.generator import CLASS_NAMES_FIELD, TOKENIZER_FIELD, Generator, abstract_params
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models.dit import DiTConfig
from softvq_jax.report.image_grid import CAPTION
from softvq_jax.tools import sample
from softvq_jax.tools.command_line import exit_code
from softvq_jax.weights import files
from tests import programs, small_generators

SHAPE = DiTConfig(num_tokens=8, channels=6, width=32, depth=1, num_heads=4, num_classes=7)


def save_generator(folder, shape=SHAPE):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(0.2 * rng.standard_normal(leaf.shape)), abstract_params(shape))
    Generator(shape, params, LatentStatistics(0.0, 0.5)).save_pretrained(folder)
    fields = files.read_json(folder / "config.json") | {CLASS_NAMES_FIELD: ["ant", "bee", "cat"]}
    files.write_json(folder / "config.json", fields)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return save_generator(root / "generator"), small_generators.save_tokenizer(root / "tokenizer")


def flags(folders, out, *more):
    argv = ["sample", f"--from={folders[0]}", f"--tokenizer={folders[1]}", f"--out={out}", "--steps=3", "--num=70"]
    return [*argv, "--classes=0-6", *more]


def command(*args):
    return exit_code(sample.main, sample.parse_flags(flags(*args)))


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "samples.npz"
    assert command(folders, out, "--grid") == 0
    return out


def test_the_npz_has_the_format_of_the_adm_evaluator(whole):
    with np.load(whole) as archive:
        assert archive.files == ["arr_0"]
        images = archive["arr_0"]
    assert images.shape == (70, 32, 32, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 70
    grid = np.asarray(Image.open(whole.with_name("samples_grid.png")))
    assert grid.shape == (8 * (96 + CAPTION + 2) - 2, 8 * 98 - 2, 3)  # enlarged for the captions
    np.testing.assert_array_equal(grid[:96:3, 98:194:3], images[1])
    rows = whole.with_name("samples_classes.tsv").read_text().splitlines()
    assert rows[:3] == ["image\tlabel\tclass", "0\t0\tant", "1\t1\tbee"] and rows[4] == "3\t3\t3" and len(rows) == 71
    assert not whole.with_name("samples.npz.parts").exists()


def test_a_folder_holds_the_same_images_and_resumes(folders, whole, tmp_path, monkeypatch):
    out = tmp_path / "png"
    assert command(folders, out, "--grid") == 0
    assert (out / "grid.png").exists() and (out / "classes.tsv").exists() and [*tmp_path.iterdir()] == [out]
    assert len(open_images(str(out))) == 70  # the grid is not a sample
    images = np.load(whole)["arr_0"]
    for i in (0, 33, 69):
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"{i:06d}.png")), images[i])
    for i in (5, 66):
        (out / f"{i:06d}.png").unlink()
    drawn = []
    write = sample.ImageSampler.__call__
    monkeypatch.setattr(sample.ImageSampler, "__call__", lambda self, i: drawn.extend(i) or write(self, i))
    assert command(folders, out) == 0
    assert drawn == [5, 66]
    np.testing.assert_array_equal(np.asarray(Image.open(out / "000066.png")), images[66])


def test_an_interrupted_npz_resumes(folders, whole, tmp_path, monkeypatch):
    out = tmp_path / "samples.npz"
    draw, calls = sample.ImageSampler.__call__, []

    def fail_later(self, indices):
        calls.append(indices)
        if len(calls) == 2:
            raise OSError("disk full")
        return draw(self, indices)

    monkeypatch.setattr(sample.ImageSampler, "__call__", fail_later)
    assert command(folders, out) == 1 and not out.exists()
    assert command(folders, out) == 0
    assert [len(indices) for indices in calls] == [64, 6, 6]
    np.testing.assert_array_equal(np.load(out)["arr_0"], np.load(whole)["arr_0"])


def test_other_samples_are_not_mixed_in(folders, whole, tmp_path, capsys):
    assert command(folders, whole) == 0  # the same: nothing to do
    assert command(folders, whole, "--seed=1") == 1
    assert "holds other samples: seed is 0 there, 1 here." in capsys.readouterr().err
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, arr_0=np.zeros(1))
    assert command(folders, foreign) == 1
    assert "foreign.npz exists without foreign.npz.json: use another name" in capsys.readouterr().err
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    assert command(folders, full) == 1
    assert "full exists and has no settings.json: use another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes=3,7"], "labels range from 3 to 7; this generator has classes 0 to 6"),
        (
            ["--classes=ant,cats"],
            "numbers and ranges such as 1,5,10-12, or names of classes (ant, bee, cat, ...)",
        ),
        (["--guidance=2", "--guidance_low=0.8", "--guidance_high=0.3"], "guidance_interval is (0.8, 0.3); expected"),
        (["--sampler=ddim"], "sampler is 'ddim'; a sit has sde_euler_maruyama, ode_euler, ode_heun"),
        (["--temperature=0.9"], "temperature was given, but sampler sde_euler_maruyama of a sit does not"),
        (["--guidance=nan"], "sample: error: guidance is nan; expected a finite number"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(folders, tmp_path, capsys, more, message):
    assert command(folders, tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_classes_are_listed_by_numbers_ranges_and_names():
    names = ("ant", "bee", "cat", "3")
    np.testing.assert_array_equal(sample.parse_classes("cat,0-1,3", 6, names, 0), [2, 0, 1, 3, 2, 0])


def test_generator_and_tokenizer_must_fit_together(folders, tmp_path, capsys):
    wide = save_generator(tmp_path / "wide", DiTConfig(8, 5, width=32, depth=1, num_heads=4, num_classes=7))
    assert command((wide, folders[1]), tmp_path / "out") == 1
    assert "makes 8 tokens of 5 channels, the tokenizer takes 8 of 6" in capsys.readouterr().err
    fields = files.read_json(folders[0] / "config.json")
    other = save_generator(tmp_path / "other")
    files.write_json(other / "config.json", fields | {TOKENIZER_FIELD: "0123456789abcdef"})
    assert command((other, folders[1]), tmp_path / "out") == 1
    assert "tokenizer with fingerprint 0123456789abcdef, but this one has" in capsys.readouterr().err
    files.write_json(other / "config.json", {k: v for k, v in fields.items() if k not in ("vq_mean", "vq_std")})
    assert command((other, folders[1]), tmp_path / "out") == 1
    assert "has no vq_mean and vq_std" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 1)])
def test_images_do_not_depend_on_devices_and_hosts(folders, whole, tmp_path, processes, devices):
    out = tmp_path / "samples.npz"
    programs.run("run_tool", *flags(folders, out), processes=processes, devices=devices)
    np.testing.assert_array_equal(np.load(out)["arr_0"], np.load(whole)["arr_0"])
