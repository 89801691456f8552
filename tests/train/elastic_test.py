"""Runs on fewer devices than before: the size of the pieces, and the same losses and gradients."""

import logging
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.losses.diff_augment import diff_augment
from softvq_jax.parallel import batch_random
from softvq_jax.train import elastic
from tests import small_generators
from tests.train.survival_test import complete, finish, logged, start, wait_for


def config(batch_size=1024, accumulate=1, elastic=True):
    config = small_generators.config("sit")
    config.train.batch_size, config.optim.accumulate, config.checkpoint.elastic = batch_size, accumulate, elastic
    return config


def prepared(config, num_devices, record):
    step = types.SimpleNamespace()
    elastic.prepare(step, config, num_devices, record)
    return step.pieces


def test_pieces_keep_the_size_of_the_start(caplog):
    caplog.set_level(logging.INFO)
    record = {"step": 0, "changes": []}
    assert prepared(config(), 256, record) == 1 and record["examples_per_device"] == 4
    record["step"] = 10
    assert not caplog.messages
    assert prepared(config(), 64, record) == 4 and record["examples_per_device"] == 4
    assert caplog.messages == [
        "64 devices, fewer than at the start of the run: each step accumulates gradients over 4 microbatches of 4 images "
        "per device, as at the start (--config.checkpoint.elastic=False: 16 images per device)"
    ]
    assert prepared(config(), 512, record) == 1
    assert prepared(config(elastic=False), 64, record) == 1
    assert [elastic.pieces(now, 4) for now in (1, 4, 6, 7, 12)] == [1, 1, 2, 7, 3]


def test_other_batches_and_microbatches_begin_anew():
    for fields in ({"train.batch_size": [512, 1024]}, {"optim.accumulate": [1, 2]}):
        record = {"step": 10, "changes": [{"step": 10, "fields": fields}], "examples_per_device": 2}
        assert prepared(config(), 64, record) == 1 and record["examples_per_device"] == 16
    record = {"step": 12, "changes": [{"step": 10, "fields": fields}], "examples_per_device": 2}
    assert prepared(config(), 64, record) == 8


@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_draw_what_the_whole_batch_draws(axis):
    key, shape = jax.random.key(3), (4, 6, 5)
    smaller = tuple(size // (2 if i == axis else 1) for i, size in enumerate(shape))
    draws = (
        lambda shape: batch_random.normal(key, shape, axis),
        lambda shape: batch_random.uniform(key, shape, axis),
        lambda shape: batch_random.bernoulli(key, 0.3, shape, axis),
        lambda shape: batch_random.randint(key, shape, 0, 100, axis),
    )
    for draw in draws:
        whole = np.asarray(draw(shape))
        for index in range(2):
            with batch_random.piece(index, 2):
                part = draw(smaller)
            np.testing.assert_array_equal(part, whole.take(np.arange(index, shape[axis], 2), axis))
    np.testing.assert_array_equal(batch_random.normal(key, shape), jax.random.normal(key, shape))


def test_augmentation_in_pieces_is_that_of_the_whole_batch():
    """Also where it is traced more than once, as for the shapes of the gradients."""
    key, images = jax.random.key(5), np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)

    def gradients(carry, part, index):
        with batch_random.piece(index, 2):
            return diff_augment(key, part, probability=1.0), carry, {}

    @jax.jit
    def in_pieces(images):
        def body(_, inputs):
            index, part = inputs
            return None, gradients(None, part, index)[0]

        jax.eval_shape(gradients, None, images[:2], jnp.zeros((), jnp.int32))
        return jax.lax.scan(body, None, (jnp.arange(2), images.reshape(2, 2, 16, 16, 3).swapaxes(0, 1)))[1]

    expected = jax.jit(lambda images: diff_augment(key, images, probability=1.0))(images)
    np.testing.assert_allclose(in_pieces(images).swapaxes(0, 1).reshape(images.shape), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["sit", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("dit", "mar", "maskgit"))]
)
def test_gradients_in_pieces_are_those_of_the_microbatch(family):
    config = small_generators.config(family)
    config.optim.accumulate = 2
    task = small_generators.abstract_task(config)
    batch = small_generators.batch(task, size=16)
    # Gates are zero at first, and most gradients with them.
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + noise.normal(0, 0.05, leaf.shape).astype(np.float32),
        jax.device_get(small_generators.state_of(task).generator.params),
    )

    def gradients(pieces):
        task.step.pieces = pieces
        accumulate = jax.jit(lambda params, key: task.step.accumulate(params, batch["latents"], batch["label"], key))
        return accumulate(params, jax.random.key(0))

    grads, metrics = gradients(1)
    ours, in_pieces = gradients(4)
    chex.assert_trees_all_close(ours, grads, rtol=1e-3, atol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(in_pieces[name], value, rtol=1e-5)
    assert jnp.abs(metrics["loss"]) > 0


@pytest.mark.heavy  # three runs on simulated devices
def test_a_tokenizer_that_resumes_on_fewer_devices_has_the_same_losses(tmp_path):
    """Without GAN and entropy, whose terms are of the whole batch."""
    fields = {
        "gan.discriminator": "none",
        "loss.entropy_weight": 0.0,
        "train.batch_size": 16,
        "train.num_steps": 8,
        "checkpoint.every_steps": 4,
        "optim.warmup_epochs": 0.0,
        "optim.learning_rate": 3e-2,
        "optim.eps": 1e-2,
    }
    whole, cut, cache = tmp_path / "whole", tmp_path / "cut", tmp_path / "cache"
    finish(start(whole, cache, devices=8, **fields))
    running = start(cut, cache, devices=8, **fields)
    wait_for(lambda: complete(cut), running)
    running[0].kill()
    running[0].wait()
    assert complete(cut) == [4]
    finish(start(cut, cache, devices=2, **fields))
    log = (cut / "log.0").read_text()
    assert "resuming after step 4" in log and "gradients over 4 microbatches of 2 images per device" in log
    ours, theirs = (logged(workdir, after=4) for workdir in (cut, whole))
    assert list(ours) == list(theirs) == [5, 6, 7, 8]
    for step, line in theirs.items():
        for name in ("generator_total", "reconstruction"):
            np.testing.assert_allclose(ours[step][name], line[name], rtol=1e-4, err_msg=f"{name} at {step}")
    first, last = (logged(whole)[step]["reconstruction"] for step in (1, 8))
    assert abs(first - last) > 1e-2 * first  # it has learned something
