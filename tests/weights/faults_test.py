"""Damaged weight files end in one line that names the file, never in another exception; drawn from a seed."""

import copy
import json

import numpy as np
import pytest

from softvq_jax.generator import Generator
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import files
from softvq_jax.weights.layout import WeightsError
from tests import generator_test, small_maetok, small_titok
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
    """A few changes of a network's tensors, of their names, and of the fields of its JSON files, at any depth."""
    tensors, fields, names = dict(tensors), copy.deepcopy(fields), sorted(tensors)
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
                change_field(rng, fields[sorted(fields)[rng.integers(len(fields))]])
    return tensors, fields


def change_field(rng, content):
    """Replaces or removes a field of a JSON object, or of an object in it."""
    key = sorted(content)[rng.integers(len(content))]
    if isinstance(content[key], dict) and content[key] and rng.integers(4):
        change_field(rng, content[key])
    elif rng.integers(8):
        content[key] = CONFIG_VALUES[rng.integers(len(CONFIG_VALUES))]
    elif len(content) > 1:
        del content[key]


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
    """Opens `count` damaged copies of a folder; `fields` has the JSON files by name. Returns how many were refused."""
    rng, refused = np.random.default_rng(seed), 0
    for i in range(count):
        made, objects = damaged(rng, tensors, fields)
        for name, content in objects.items():
            (folder / name).write_text(json.dumps(content))
        write(folder / "model.safetensors", made)
        if i % 5 == 0:
            path = folder / ["model.safetensors", *sorted(fields)][rng.integers(1 + len(fields))]
            path.write_bytes(cut(rng, path.read_bytes()))
        try:
            refused += outcome(call, folder) == "refused"
        except Exception as error:
            raise AssertionError(f"file {i} of seed {seed}: {error!r}") from error
    return refused


def published(made, call):
    """A case from tensors and the content of `config.json`."""
    tensors, fields = made
    return tensors, {"config.json": fields}, call


def own(config, folder):
    """A case from the files that a tokenizer of ours writes, of which `softvq_jax.json` is one."""
    Tokenizer(config, small.params(config)).save_pretrained(folder)
    names = [path.name for path in folder.iterdir() if path.suffix == ".json"]
    tensors = files.read_tensors(folder / "model.safetensors")
    return tensors, {name: files.read_json(folder / name) for name in names}, Tokenizer.from_pretrained


def generator(family):
    return generator_test._published(generator_test.CONFIGS[family], family)


CASES = {
    name: (lambda _, name=name: published(small.published(name), Tokenizer.from_pretrained)) for name in small.PUBLISHED
}
CASES |= {name: (lambda _, name=name: published(generator(name), open_generator)) for name in generator_test.CONFIGS}
for network in ("bert", "uvit"):
    CASES[f"maskgit {network}"] = lambda _, network=network: published(
        small_titok.published(f"maskgit_{network}"), Generator.from_pretrained
    )
for kind in ("vq", "vae"):
    CASES[f"titok {kind}"] = lambda _, kind=kind: published(
        small_titok.published(small_titok.PUBLISHED[kind]), Tokenizer.from_pretrained
    )
CASES |= {
    "maetok": lambda _: published(small_maetok.published(), Tokenizer.from_pretrained),
    "own softvq": lambda folder: own(small.config(temperature=0.5), folder),
    "own titok": lambda folder: own(small_titok.config("two_stage"), folder),
    "own maetok": lambda folder: own(small_maetok.config(), folder),
}


@pytest.mark.parametrize("name", ["softvq", "sit"])
def test_a_few_damaged_files(name, tmp_path):
    assert try_files(*CASES[name](tmp_path), tmp_path, 10, seed=0) > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name, tmp_path):
    """600 files in all."""
    assert try_files(*CASES[name](tmp_path), tmp_path, 40, seed=1) > 20
