"""Configs are found by name and by path, from any folder."""

import pathlib

import pytest

from softvq_jax.config.names import config_names, configs_folder, find_config, load_config

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
FAMILY = "def get_config(name: str):\n    return {'name': name}\n"


@pytest.fixture
def other_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("other_folder")
@pytest.mark.parametrize("name", ["l64", "configs/l64.py", "configs/l64", "./configs/l64.py", "l64.py"])
def test_found_by_name_from_another_folder(name):
    assert find_config(name).path == CONFIGS / "l64.py"


@pytest.mark.usefixtures("other_folder")
@pytest.mark.parametrize("name", ["studies/bottlenecks", "configs/studies/bottlenecks.py"])
def test_studies_are_found_by_name(name):
    assert load_config(name).study == "bottlenecks"


def test_a_file_comes_before_a_name(other_folder):
    (other_folder / "l64.py").write_text("def get_config():\n    return 1\n")
    assert load_config("l64.py") == 1 and load_config("l64").model.num_latent_tokens == 64


def test_argument_and_old_name(other_folder, monkeypatch):
    monkeypatch.setattr("softvq_jax.config.names.configs_folder", lambda: other_folder / "configs")
    (other_folder / "configs").mkdir()
    (other_folder / "configs" / "sit.py").write_text(FAMILY)
    assert load_config("sit:xl_l64") == load_config("configs/sit.py:xl_l64") == {"name": "xl_l64"}
    assert load_config("sit_xl_l64") == load_config("configs/sit_xl_l64.py") == {"name": "xl_l64"}
    assert find_config("sit_xl_l64").renamed and not find_config("sit:xl_l64").renamed


@pytest.mark.parametrize(("name", "nearest"), [
    ("l46", "l64"), ("configs/none.py", "tiny"), ("bl64_51", "bl64_512"), ("studies/botlenecks", "studies/bottlenecks"),
])  # fmt: skip
def test_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(ValueError) as caught:
        find_config(name)
    assert str(caught.value).startswith(f"--config={name}: no such file or config; the nearest name is '")
    if name != "configs/none.py":
        assert str(caught.value).endswith(f"'{nearest}'")


def test_argument_of_a_file_that_takes_none():
    with pytest.raises(ValueError, match=r"--config=l64:xl: .*l64\.py takes no argument"):
        load_config("l64:xl")


def test_names_are_those_of_the_files():
    assert configs_folder() == CONFIGS
    assert {"l64", "tiny", "studies/temperature"} <= set(config_names())
