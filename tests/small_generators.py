"""Generator runs small enough for tests, on latents that a small tokenizer makes."""

import pathlib

import chex
import jax
import numpy as np
from ml_collections import ConfigDict

from softvq_jax.generators.config import generator_config
from softvq_jax.generators.family import FAMILIES
from softvq_jax.parallel.mesh import global_batch, make_mesh
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.generator_task import GeneratorTask
from tests import small_tokenizers


def shrink(config: ConfigDict, **shape) -> ConfigDict:
    """Shrinks the network of a config."""
    model, sampling = config.model, config.sampling
    for stack in (model.encoder, model.decoder) if "encoder" in model else (model,):
        stack.update(width=32, depth=2, num_heads=2)
    if "hidden" in model:
        model.hidden = 48
    if "head_width" in model:
        model.update(head_width=32, head_depth=1, buffer_size=4)
    sampling.update(dict(steps=2, head_steps=2) if "head_steps" in sampling else dict(steps=3))
    model.update(dtype="float32", **shape)
    return config


def config(family: str = "sit", **data) -> ConfigDict:
    """A run on 8 tokens of 6 channels, the latents of `small_tokenizers`, or on their 2 x 16 codes."""
    codes = dict(codebook_size=16, num_codebooks=2)
    sizes = codes if FAMILIES[family].discrete else dict(channels=6)
    config = shrink(generator_config(family, "B"), num_tokens=8, num_classes=8, **sizes)
    config.tokenizer = ""
    config.optim.update(learning_rate=0.064, warmup_epochs=0.0, ema_decay=0.9)
    config.train.update(batch_size=8, num_steps=4)
    config.checkpoint.every_steps = 2
    config.log.every_steps = 1
    config.evals.held_out.update(every_steps=0, num_images=8, num_pictures=8)
    config.data.update(data)
    return config


def abstract_task(config: ConfigDict) -> GeneratorTask:
    """The task without data or tokenizer, for its step."""
    return GeneratorTask.abstract(config, num_samples=8)


def batch(task: GeneratorTask, size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Random latents of unit variance, or indices, and classes."""
    rng = np.random.default_rng(seed)
    shape = task.inputs["latents"].shape
    labels = rng.integers(task.config.model.num_classes, size=size, dtype=np.int32)
    if task.inputs["latents"].dtype == np.int32:
        indices = rng.integers(task.config.model.codebook_size, size=(size, *shape), dtype=np.int32)
        return {"latents": indices, "label": labels}
    return {"latents": rng.standard_normal((size, *shape)).astype(np.float32), "label": labels}


def save_tokenizer(folder: pathlib.Path, seed: int = 0, bottleneck: str = "softvq") -> pathlib.Path:
    """A small tokenizer's folder."""
    shape = small_tokenizers.config(bottleneck)
    small_tokenizers.Tokenizer(shape, small_tokenizers.params(shape, seed)).save_pretrained(folder)
    return folder


def state_of(task: GeneratorTask):
    return jax.jit(task.init)(jax.random.key(0), {})


def take_steps(config, count, num_devices=1):
    """Takes `count` steps on one batch; returns the final state and the metrics of each step."""
    task = abstract_task(config)
    mesh = make_mesh(devices=jax.devices()[:num_devices], fsdp=min(2, num_devices))
    with jax.set_mesh(mesh):
        state = put(jax.device_get(state_of(task)), mesh)
        chex.clear_trace_counter()
        step = jit_step(chex.assert_max_traces(lambda *args: task.step(*args), n=1), state, {}, mesh)
        logs = []
        for _ in range(count):
            state, metrics = step(state, {}, global_batch(batch(task), mesh), jax.random.key(1))
            logs.append(jax.device_get(metrics))
    return jax.device_get(state), logs
