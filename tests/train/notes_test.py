"""The moving average and the learning rate, and what a run says about its settings and its latents."""

import numpy as np
import optax
from ml_collections import ConfigDict

from softvq_jax.train import notes, optim
from softvq_jax.train.tasks import TASKS
from tests.train.start_test import small


def test_the_warm_up_of_the_average_is_its_closed_form():
    section, rng = ConfigDict(dict(ema_decay=0.9, ema_warmup=True)), np.random.default_rng(0)
    values = rng.normal(size=120)
    average, expected = np.float32(5.0), 5.0
    for n, value in enumerate(values):
        average = optim.ema_update(average, np.float32(value), optim.ema_decay(section, np.int32(n)))
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-5)
    section.ema_warmup = False
    assert optim.ema_decay(section, np.int32(3)) == 0.9  # a Python float: the program of the published recipe


def test_an_average_that_cannot_move_is_warned_about():
    section = ConfigDict(dict(ema_decay=0.9999, ema_warmup=False))
    text = notes.average(section, 200)
    assert text is not None and "after 200 steps 98% of" in text and "--config.optim.ema_decay=0.975" in text
    assert notes.average(section, 200_000) is None
    section.ema_warmup = True
    assert notes.average(section, 200) is None


def test_the_rate_in_use_is_explained():
    config = small()
    config.optim.update(learning_rate=0.64, warmup_epochs=2.0)
    config.train.update(batch_size=8, num_steps=100)
    text = notes.learning_rate(config, 24)
    assert text.startswith("learning rate: 0.02 = optim.learning_rate 0.64 x batch 8 / 256, after 6 steps")
    assert text.endswith("a cosine to 0.002 at step 100")
    assert notes.short_run(config, 24) is None


def test_the_rate_of_muon_is_explained_too():
    config = small()
    config.optim.update(optimizer="muon", muon_learning_rate=0.32)
    config.train.update(batch_size=8, num_steps=100)
    assert notes.learning_rate(config, 24).endswith("Muon's rate, 0.01 = optim.muon_learning_rate 0.32 x batch 8 / 256")


def test_a_run_that_ends_during_its_warm_up_is_warned_about():
    """Of 30 steps of warm-up, the run takes 4: the rate of its last step is 4 / 30 of the peak."""
    config = small()
    config.optim.update(learning_rate=0.64, warmup_epochs=10.0)
    config.train.update(batch_size=8, num_steps=4)
    text = notes.learning_rate(config, 24)
    assert text.endswith("after 30 steps of warm-up; the run ends before, at step 4, with 0.00267")
    warning = notes.short_run(config, 24)
    assert warning is not None and "are 30 steps of warm-up, but the run ends at step 4" in warning
    config.optim.warmup_epochs = 4 / 3  # 4 steps: the last one has the peak
    assert notes.short_run(config, 24) is None


def test_learning_rates_in_the_metrics_are_those_of_the_optimizer():
    """The logged rate is the factor of an Adam step: with a constant gradient, every step has the size of the rate."""
    config = small()
    config.optim.update(learning_rate=1.0, warmup_epochs=1.0)
    config.train.update(batch_size=8, num_steps=10)
    schedule = optim.learning_rate(config.optim, "cosine", batch_size=8, steps_per_epoch=3, num_steps=10)
    optimizer = optax.adam(schedule)
    state, x = optimizer.init(np.float32(0)), np.float32(0)
    for step in range(10):
        update, state = optimizer.update(np.float32(1.0), state)
        np.testing.assert_allclose(-update, schedule(step), rtol=1e-4)
        x += update


def test_the_spread_of_latents_is_their_variance_between_images():
    latents = np.random.default_rng(0).normal(2.0, 0.5, (50, 3, 4)).astype(np.float32)
    sums = {"images": 50.0, "psnr": 0.0, "latents": latents.sum(0), "squared_latents": np.square(latents).sum(0)}
    metrics, _ = TASKS["tokenizer"].summarize(None, None, None, sums, None)
    expected = latents.var(axis=0).mean() / np.square(latents).mean()
    np.testing.assert_allclose(metrics["eval_latent_spread"], expected, rtol=1e-4)
    assert notes.collapse(expected) is None
    assert "local_init" in notes.collapse(0.0) and "local_init" not in notes.collapse(0.0, "titok")


def test_no_picture_is_made_if_none_is_asked_for():
    """`evals.held_out.num_pictures=0`."""
    sums = {"images": 2.0, "psnr": 40.0, "latents": np.ones((3, 4)), "squared_latents": np.ones((3, 4))}
    nothing = [np.zeros((0, 48, 48, 3), np.uint8)] * 2
    metrics, images = TASKS["tokenizer"].summarize(None, None, None, sums, nothing)
    assert metrics["eval_psnr"] == 20.0 and images == {}
