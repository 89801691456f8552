"""Every generator config, shrunk, takes real steps, and the docstrings hold the sizes of the networks."""

import re

import jax
import numpy as np
import pytest

from softvq_jax.config import load_config
from softvq_jax.config.names import configs_folder
from softvq_jax.generators.config import latents_of
from softvq_jax.generators.family import FAMILIES
from tests import small_generators

NAMES = [
    f"{family.name}:{size.lower()}_{latents}"
    for family in FAMILIES.values()
    for size in family.presets
    for latents in latents_of(family)
]


TINY = ("tiny_sit", "tiny_maskgit")
# Shrunk, the sizes of a family are the same network.
SLOW = ("dit:s_l64", "mar:b_l64", "maskgit:b_vq64", "tiny_sit", "tiny_maskgit")
FIRST = [next(name for name in NAMES if name.startswith(f"{family.name}:")) for family in FAMILIES.values()]


@pytest.mark.parametrize(
    "name",
    [*(name for name in FIRST if name not in SLOW), *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_a_shrunk_config_takes_steps(name):
    config = small_generators.shrink(load_config(name))
    config.train.update(batch_size=8, num_steps=4)
    config.data.update(source="latents")
    config.tokenizer = ""
    state, logs = small_generators.take_steps(config, 2)
    assert int(state.step) == 2 and all(np.isfinite(log["loss"]) for log in logs)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_holds_the_number_of_parameters(name):
    family, _, argument = name.partition(":")
    config = load_config(name)
    shapes = small_generators.abstract_task(config).network.functional.shapes
    stated = re.search(
        rf"^\| {argument} +\| +(\d+) M \|", (configs_folder() / f"{family}.py").read_text(), re.MULTILINE
    )
    assert stated and int(stated[1]) == round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6)
    latents = latents_of(FAMILIES[family])[argument.partition("_")[2]]
    sizes = latents._asdict()
    assert config.tokenizer == sizes.pop("tokenizer") and sizes.items() <= config.model.to_dict().items()


@pytest.mark.parametrize("name", ["sit_xl_l64", "configs/mar_h_l32.py", "dit_b_l64"])
def test_names_of_older_versions(name):
    family, argument = re.fullmatch(r"(?:configs/)?([a-z]+)_(\w+?)(?:\.py)?", name).groups()
    assert load_config(name) == load_config(f"{family}:{argument}")


@pytest.mark.parametrize("name", ["sit:xxl_l64", "sit"])
def test_a_wrong_argument_is_refused_and_the_known_ones_are_listed(name):
    with pytest.raises(
        ValueError, match=r"^--config=sit:\w*: expected sit:SIZE_LATENTS, one of s_l64, s_l32, .*xl_maetok_b128_512$"
    ):
        load_config(name)
