"""Damaged weight files end in one line that names the file, never in another exception; drawn from a seed."""

import json

import numpy as np
import pytest

from softvq_jax.generator import Generator
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights.layout import WeightsError
from tests import generator_test
from tests import small_tokenizers as small
from tests.weights.entries_test import write

CONFIG_VALUES = ["abc", -1, 0, 2.5, [1], {}, True, None, 10**12, float("nan")]


def change_of(rng, tensor):
    """A tensor in place of another: of another shape or type, or with broken values."""
    kinds = [
        lambda: tensor[..., None],
        lambda: tensor.reshape(-1),
        lambda: tensor[:0],
        lambda: np.zeros((), np.float32),
        lambda: np.concatenate([tensor, tensor]) if tensor.ndim else tensor,
        lambda: tensor[..., : max(1, tensor.shape[-1] // 3)] if tensor.ndim else tensor,
        lambda: tensor.astype(np.int8),
        lambda: tensor > 0,
        lambda: np.full_like(tensor, np.nan),
        lambda: np.where(np.arange(tensor.size).reshape(tensor.shape) == 0, np.inf, tensor).astype(np.float32),
    ]
    return kinds[rng.integers(len(kinds))]()


def damaged(rng, tensors, fields):
    """A few changes of a network's tensors, of their names, and of the fields of its `config.json`."""
    tensors, fields, names = dict(tensors), dict(fields), sorted(tensors)
    for _ in range(rng.integers(1, 4)):
        name = names[rng.integers(len(names))]
        match rng.integers(5):
            case 0:
                tensors.pop(name, None)
            case 1:
                tensors[name] = change_of(rng, tensors.get(name, np.zeros(2, np.float32)))
            case 2:
                parts = name.split(".")
                parts[rng.integers(len(parts))] = ["x", "999999999", "-1", "", "0"][rng.integers(5)]
                tensors[".".join(parts)] = tensors.pop(name, np.zeros(2, np.float32))
            case 3:
                blocks = name.replace(".0.", f".{[7, 10**9, 'x'][rng.integers(3)]}.")
                tensors[blocks] = np.zeros(2, np.float32)
            case 4:
                fields[sorted(fields)[rng.integers(len(fields))]] = CONFIG_VALUES[rng.integers(len(CONFIG_VALUES))]
    return tensors, fields


def cut(rng, content):
    """The content of a file, cut short or with flipped bytes in its header."""
    if rng.integers(2):
        return content[: rng.integers(len(content))]
    head = bytearray(content)
    for place in rng.integers(0, min(len(head), 4000), 3):
        head[place] ^= 1 << int(rng.integers(8))
    return bytes(head)


def outcome(call, folder):
    """Opens a folder; AssertionError for an error that is not one line about the folder."""
    try:
        call(folder)
    except (WeightsError, FileNotFoundError, ValueError) as error:
        assert type(error) in (WeightsError, FileNotFoundError) or "process" in str(error), repr(error)
        assert "\n" not in str(error) and len(str(error)) < 600, error
        assert str(folder) in str(error) or "process" in str(error), error
        return "refused"
    return "opened"


def open_generator(folder):
    Generator.from_pretrained(folder, statistics=LatentStatistics(0.0, 1.0))


def try_files(tensors, fields, call, folder, count, seed):
    """Opens `count` damaged copies of a folder; returns how many were refused."""
    rng, refused = np.random.default_rng(seed), 0
    for i in range(count):
        made, config = damaged(rng, tensors, fields)
        (folder / "config.json").write_text(json.dumps(config))
        write(folder / "model.safetensors", made)
        if i % 5 == 0:
            path = folder / ["model.safetensors", "config.json"][rng.integers(2)]
            path.write_bytes(cut(rng, path.read_bytes()))
        try:
            refused += outcome(call, folder) == "refused"
        except Exception as error:
            raise AssertionError(f"file {i} of seed {seed}: {error!r}") from error
    return refused


def tokenizer_case(bottleneck):
    return (*small.published(bottleneck), Tokenizer.from_pretrained)


def generator_case(family):
    return (*generator_test._published(generator_test.CONFIGS[family], family), open_generator)


CASES = {name: (lambda name=name: tokenizer_case(name)) for name in small.PUBLISHED}
CASES |= {name: (lambda name=name: generator_case(name)) for name in generator_test.CONFIGS}


@pytest.mark.parametrize("name", ["softvq", "sit"])
def test_a_few_damaged_files(name, tmp_path):
    assert try_files(*CASES[name](), tmp_path, 10, seed=0) > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name, tmp_path):
    """500 files in all."""
    assert try_files(*CASES[name](), tmp_path, 72, seed=1) > 36
