"""REPA: the loss against NumPy, the tokens against a shallower network, and a run from images."""

import json

import jax
import numpy as np
import pytest

from softvq_jax import Generator
from softvq_jax.generators.config import generator_config
from softvq_jax.models.dit import DiT, DiTConfig, sincos_positions
from softvq_jax.models.functional import functional
from softvq_jax.train import loop
from softvq_jax.train.generator_task import GeneratorTask
from softvq_jax.train.tasks import TASKS
from tests import small_generators

SHAPE = dict(num_tokens=8, channels=6, width=32, num_heads=2, num_classes=4)


def random_params(net, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(0.2 * rng.standard_normal(leaf.shape)), net.shapes)


@pytest.fixture
def config(tmp_path, photographs, frozen_weights):
    config = small_generators.config("sit", source="folder", path=str(photographs), holdout=0.3)
    config.tokenizer = str(small_generators.save_tokenizer(tmp_path / "tokenizer"))
    config.repa.update(weight=0.5, block=1, hidden=16, teacher=frozen_weights["teacher"])
    return config


def test_kept_tokens_are_those_of_a_shallower_network():
    deep, shallow = (functional(DiT, DiTConfig(depth=depth, **SHAPE)) for depth in (3, 2))
    params = random_params(deep)
    rng = np.random.default_rng(1)
    fixed = {"pos_embed": sincos_positions(8, 32)}
    inputs = np.float32(rng.standard_normal((5, 8, 6))), np.float32(rng.random(5)), np.arange(5) % 4
    output, tokens = jax.jit(lambda p: deep(p, fixed).with_tokens(*inputs, block=2))(params)
    np.testing.assert_array_equal(output, jax.jit(lambda p: deep(p, fixed)(*inputs))(params))
    first_two = params | {"blocks": jax.tree.map(lambda leaf: leaf[:2], params["blocks"])}
    kept = jax.jit(lambda p: shallow(p, fixed).with_tokens(*inputs, block=2)[1])(first_two)
    np.testing.assert_allclose(tokens, kept, atol=1e-5)
    assert np.abs(tokens).mean() > 0.1


@pytest.mark.slow
def test_the_loss_is_the_mean_cosine_with_repeated_tokens(config):
    task = GeneratorTask.open(config)
    state = jax.device_get(jax.jit(task.init)(jax.random.key(0), {}))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    frozen = jax.tree.map(np.asarray, task.frozen)
    targets = np.asarray(jax.jit(task.repa.targets)(frozen, images))
    assert targets.shape == (4, 16, 64)  # 4 x 4 patches for 8 tokens
    tokens = np.float32(rng.standard_normal((4, 8, 32)))
    head = jax.tree.map(lambda leaf: np.float32(0.3 * rng.standard_normal(leaf.shape)), state.repa.params)
    loss = jax.jit(task.repa.loss)(head, tokens, targets)
    x = np.float64(tokens)
    for i, layer in enumerate((head["fc1"], head["fc2"], head["fc3"])):
        x = (x / (1 + np.exp(-x)) if i else x) @ layer["kernel"] + layer["bias"]
    cosines = [
        [x[b, p // 2] @ targets[b, p] / np.linalg.norm(x[b, p // 2]) / np.linalg.norm(targets[b, p]) for p in range(16)]
        for b in range(4)
    ]
    assert loss == pytest.approx(-np.mean(cosines), abs=1e-5)
    # The generator's gradient is that of its own loss, plus half of that of this one.
    latents, labels, key = np.float32(rng.standard_normal((4, 8, 6))), np.arange(4) % 2, jax.random.key(2)
    params = jax.tree.map(lambda leaf: np.float32(0.2 * rng.standard_normal(leaf.shape)), state.generator.params)
    gradients = jax.jit(task.step.gradients)
    (both, _), metrics = gradients((params, head), latents, labels, key, targets)
    alone, without = gradients(params, latents, labels, key)
    assert metrics["loss"] == pytest.approx(float(without["loss"]), rel=1e-5)
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), both, alone)
    # The last layer is behind the aligned tokens; everything before them gets another gradient.
    assert difference["final_layer"]["linear"]["kernel"] < 1e-5 < difference["x_embedder"]["kernel"]
    assert difference["blocks"]["attn"]["qkv"]["kernel"] > 1e-4


@pytest.mark.slow
def test_a_run_from_images_leaves_a_plain_generator(config, tmp_path):
    loop.Run(config, tmp_path / "run", TASKS["generator"]).train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert all(-1 <= line["repa"] <= 1 and line["repa_grad_norm"] > 0 for line in steps)
    generator = Generator.from_pretrained(tmp_path / "run")
    assert "repa" not in generator.params
    again = loop.Run(config, tmp_path / "run", TASKS["generator"])
    with jax.set_mesh(again.mesh):
        state, record = again._restore_or_init()
    assert record["step"] == config.train.num_steps
    assert np.abs(state.repa.params["fc3"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.data.update(source="latents"), "repa.weight=0.5 compares with features of images, but"),
        (lambda config: config.repa.update(block=3), "repa.block=3: expected a SiT or DiT .* is a sit of 2 blocks"),
    ],
)
def test_runs_without_images_or_with_too_few_blocks_are_refused(config, change, message):
    change(config)
    if config.data.source == "latents":
        with pytest.raises(ValueError, match=message):
            GeneratorTask.abstract(config, num_samples=8)
    else:
        with pytest.raises(ValueError, match=message):
            GeneratorTask.open(config)


@pytest.mark.slow
def test_another_family_is_refused(config, frozen_weights):
    mar = small_generators.shrink(generator_config("mar", "B"), num_tokens=8, channels=6, num_classes=8)
    mar.update(tokenizer=config.tokenizer, data=config.data, repa=config.repa)
    with pytest.raises(ValueError, match="the generator is a mar without such blocks"):
        GeneratorTask.open(mar)
