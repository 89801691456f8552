"""Every generator's config file, shrunk, takes a real step; and its docstring says what the network is."""

import pathlib
import re
import runpy

import jax
import numpy as np
import pytest

from tests import small_generators

EVERY = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))
CONFIGS = [path for path in EVERY if "generator_config" in path.read_text()]


def get_config(path):
    return runpy.run_path(str(path))["get_config"]()


def test_all_sizes_are_there():
    names = {path.stem for path in CONFIGS}
    expected = {
        f"{family}_{size}_{latents}"
        for family in ("sit", "dit")
        for size in ("b", "l", "xl")
        for latents in ("l32", "l64")
    }
    expected |= {f"mar_{size}_{latents}" for size in ("b", "l", "h") for latents in ("l32", "l64")}
    assert names == expected | {"tiny_sit"}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shrunk_config_takes_a_step(path):
    config = small_generators.shrink(get_config(path))
    config.train.update(batch_size=8, num_steps=4)
    config.data.update(source="latents")
    config.tokenizer = ""
    state, logs = small_generators.take_steps(config, 2)
    assert int(state.step) == 2 and all(np.isfinite(log["loss"]) for log in logs)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "tiny_sit"], ids=lambda path: path.stem)
def test_the_docstring_says_the_size(path):
    config = get_config(path)
    task = small_generators.abstract_task(config)
    shapes = jax.tree.leaves(task.network.functional.shapes)
    stated = re.search(r"(\d+) tokens of\s(\d+) channels, ([\d,]+) M", path.read_text())
    found = config.model.num_tokens, config.model.channels, round(sum(leaf.size for leaf in shapes) / 1e6)
    assert tuple(int(number.replace(",", "")) for number in stated.groups()) == found
