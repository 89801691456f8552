"""`tools.export` on the checkpoints of a stopped run of each kind."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from softvq_jax import Generator, Tokenizer
from softvq_jax.evaluate.image_sampler import open_generator
from softvq_jax.tools import export
from softvq_jax.train import loop, preemption
from softvq_jax.train.tasks import TASKS
from softvq_jax.weights import checkpoints, files
from softvq_jax.weights.layout import WeightsError
from tests import small_generators, small_tokenizers
from tests.train.conftest import preempt_at  # noqa: F401
from tests.train.start_test import small


def run_tool(*argv):
    export.main(export.parse_flags(["export", *map(str, argv)]))


@pytest.mark.slow
@pytest.mark.usefixtures("shared_programs")
def test_a_stopped_tokenizer_run_is_exported(tmp_path, preempt_at, capsys):  # noqa: F811
    workdir = tmp_path / "run"
    stopped = loop.Run(small(), workdir, TASKS["tokenizer"])
    with preempt_at(3), pytest.raises(preemption.Preempted):
        stopped.train()
    with jax.set_mesh(stopped.mesh):
        state, record = stopped._restore_or_init()
    assert record["step"] == 3 and not (workdir / "tokenizer").exists()
    run_tool(f"--from={workdir}", f"--out={tmp_path / 'out'}")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: the tokenizer of step 3, averaged parameters\n"
    run_tool(f"--from={workdir}", "--step=2", "--raw", f"--out={tmp_path / 'raw'}")
    stopped.task.export(jax.device_get(state.ema)).save_pretrained(tmp_path / "expected")
    ours, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "expected"))
    assert ours.keys() == expected.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], expected[key])
    config, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "expected"))
    assert config == theirs
    jax.tree.map(
        np.testing.assert_array_equal, Tokenizer.from_pretrained(workdir).params, jax.device_get(state.ema["model"])
    )
    with pytest.raises(ValueError, match="--out must be a new or empty folder"):
        run_tool(f"--from={workdir}", f"--out={tmp_path / 'out'}")
    with pytest.raises(FileNotFoundError, match="--from must be the workdir of a run with checkpoints"):
        run_tool(f"--from={tmp_path / 'out'}", f"--out={tmp_path / 'new'}")

    # Files cut short, and a changed record.
    for path in (workdir / "checkpoints" / "3" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"3 cannot be read|its arrays are not the ones"):
        checkpoints.read_weights(workdir / "checkpoints" / "3")
    path = workdir / "checkpoints" / "3" / "record" / "metadata"
    path.write_text(path.read_text().replace('"step": 3', '"step": 4').replace('"step":3', '"step":4'))
    with pytest.raises(WeightsError, match="record"):
        checkpoints.read_record(workdir / "checkpoints" / "3")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, tmp_path):
    tokenizer = small_tokenizers.tokenizer(small_tokenizers.config("ae"))
    tokenizer.save_pretrained(tmp_path / "a")
    before = load_file(tmp_path / "a" / "model.safetensors")
    tokenizer.save_pretrained(tmp_path / "a", dtype=dtype)
    opened = Tokenizer.from_pretrained(tmp_path / "a")
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), tokenizer.params)
    jax.tree.map(np.testing.assert_array_equal, opened.params, rounded)
    opened.save_pretrained(tmp_path / "b")  # in half precision too
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second and len(first) < 0.7 * sum(tensor.nbytes for tensor in before.values())


def test_values_that_half_precision_cannot_hold_are_refused(tmp_path):
    tokenizer = small_tokenizers.tokenizer(small_tokenizers.config("ae"))
    params = jax.tree.map(lambda leaf: leaf, tokenizer.params)
    params["to_latents"]["bias"] = params["to_latents"]["bias"].at[0].set(1e5)
    large = tokenizer.replace(params=params)
    with pytest.raises(ValueError, match=r"quant_conv.bias has values that float16 cannot hold; use dtype bfloat16"):
        large.save_pretrained(tmp_path / "a", dtype="float16")
    with pytest.raises(ValueError, match=r"dtype is 'int8'; expected one of float32, float16, bfloat16"):
        large.save_pretrained(tmp_path / "a", dtype="int8")
    assert not (tmp_path / "a").exists()
    large.save_pretrained(tmp_path / "a", dtype="bfloat16")
    stored = files.read_tensors(tmp_path / "a" / "model.safetensors")["quant_conv.bias"]
    assert stored.dtype == "bfloat16" and stored.astype(float)[0] == pytest.approx(1e5, rel=4e-3)


@pytest.mark.slow
def test_a_stopped_generator_run_is_exported(tmp_path, preempt_at):  # noqa: F811
    tokenizer = small_generators.save_tokenizer(tmp_path / "tokenizer")
    config = small_generators.config(source="embedded", augment="random_region", holdout=0.3)
    config.tokenizer = str(tokenizer)
    run = loop.Run(config, tmp_path / "run", TASKS["generator"])
    with preempt_at(3), pytest.raises(preemption.Preempted):
        run.train()
    assert not (tmp_path / "run" / "generator").exists()
    with jax.set_mesh(run.mesh):
        state, _ = run._restore_or_init()
    run.task.export(jax.device_get(state.ema)).save_pretrained(tmp_path / "expected")
    run_tool(f"--from={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    for opened in (Generator.from_pretrained(tmp_path / "run"), open_generator(str(tmp_path / "run"), str(tokenizer))):
        assert opened.statistics == run.task.latents.statistics
        np.testing.assert_array_equal(opened.params["label_embeddings"], state.ema["label_embeddings"])
