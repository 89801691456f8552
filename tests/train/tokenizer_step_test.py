"""The parts of the step, each compared with an independent computation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.discriminators import PatchGAN
from softvq_jax.models.functional import functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.parallel.mesh import make_mesh
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.tokenizer_networks import check_size
from softvq_jax.train.tokenizer_step import CODE_USAGE_WINDOW, adaptive_weight, after, age_codes
from softvq_jax.train.tokenizer_task import TokenizerTask
from softvq_jax.weights import pretrained


def make_task(config):
    return TokenizerTask(config, pretrained.load(config), num_steps=config.train.num_steps, steps_per_epoch=10)


def batch_of(config, seed=0):
    rng = np.random.default_rng(seed)
    side = config.model.image_size
    return {"image": rng.integers(0, 256, (config.train.batch_size, side, side, 3), np.uint8)}


def take_steps(config, count=2):
    task = make_task(config)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = put(jax.device_get(jax.jit(task.init)(jax.random.key(0), task.initial)), mesh)
        frozen = put(task.frozen, mesh)
        chex.clear_trace_counter()
        step = jit_step(chex.assert_max_traces(lambda *args: task.step(*args), n=1), state, frozen, mesh)
        logs = []
        for i in range(count):
            state, metrics = step(state, frozen, batch_of(config, i), jax.random.key(1))
            logs.append(jax.device_get(metrics))
    return task, jax.device_get(state), logs


@pytest.mark.slow
def test_the_whole_recipe_takes_real_steps_in_one_trace(full_config):
    _, state, logs = take_steps(full_config, 3)
    expected = {"reconstruction", "perceptual", "alignment", "entropy", "gan_generator", "gan_discriminator", "lecam"}
    assert expected | {"consistency", "codebook_usage", "lecam_real", "generator_grad_norm"} <= logs[0].keys()
    chex.assert_tree_all_finite(logs)
    assert int(state.step) == 3
    assert logs[0]["alignment"] >= -1 and logs[2]["discriminator_grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["global", "avg_1d", "avg_1d_shuffle"])
def test_alignment_modes_train(full_config, mode):
    full_config.alignment.mode = mode
    full_config.gan.discriminator = "none"
    full_config.loss.perceptual_weight = 0.0
    chex.assert_tree_all_finite(take_steps(full_config, 1)[2])


@pytest.mark.slow
@pytest.mark.parametrize("bottleneck", ["vq", "simvq", "kl", "ae"])
def test_every_bottleneck_trains(tiny_config, bottleneck):
    tiny_config.model.bottleneck = bottleneck
    tiny_config.gan.discriminator = "none"
    task, state, logs = take_steps(tiny_config, 2)
    chex.assert_tree_all_finite(logs)
    before = jax.device_get(jax.jit(task.init)(jax.random.key(0), {})).tokenizer.params["model"]
    after = state.tokenizer.params["model"]
    assert np.abs(after["to_latents"]["kernel"] - before["to_latents"]["kernel"]).max() > 0
    if bottleneck == "simvq":  # frozen: neither trained nor decayed
        np.testing.assert_array_equal(after["bottleneck"]["codebook"], before["bottleneck"]["codebook"])
        np.testing.assert_array_equal(state.ema["model"]["bottleneck"]["codebook"], before["bottleneck"]["codebook"])
        assert np.abs(after["bottleneck"]["projection"] - before["bottleneck"]["projection"]).max() > 0


@pytest.mark.slow
def test_gradients_agree_with_plain_differentiation_of_the_total(tiny_config):
    """The step's image-space cotangents against `jax.grad` of the written-out loss."""
    tiny_config.gan.update(diff_augment=False, start_step=0)
    task = make_task(tiny_config)
    step = task.step
    state = jax.jit(task.init)(jax.random.key(0), {})
    images = jnp.asarray(batch_of(tiny_config)["image"], jnp.float32) / 127.5 - 1

    def total(params):
        model = task.nets.model(params["model"])
        out = model(images)
        reconstructions = model.decoder.to_pixels(out.decoded)
        discriminator = task.nets.discriminator(state.discriminator.params, state.discriminator.buffers)
        fakes = discriminator(reconstructions, train=True)
        pixels = jnp.mean(jnp.square(reconstructions - images))
        return pixels + 0.01 * out.bottlenecked.losses["entropy"] - 0.2 * jnp.mean(fakes)

    expected, grads = jax.jit(jax.value_and_grad(total))(state.tokenizer.params)
    (ours, _), _, metrics = jax.jit(step.accumulate)(state, {}, images, jax.random.key(0))
    np.testing.assert_allclose(metrics["generator_total"], expected, rtol=1e-5)
    chex.assert_trees_all_close(ours, grads, rtol=1e-3, atol=1e-6)


def test_adaptive_weight_is_the_ratio_of_last_layer_gradients():
    rng = np.random.default_rng(0)
    decoded = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(5, 12)), jnp.float32)
    target, direction = (jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32) for _ in range(2))

    def image(kernel):  # two by two patches of two by two pixels
        return (decoded @ kernel).reshape(2, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 3)

    pixels = lambda x: jnp.mean(jnp.square(x - target))  # noqa: E731
    gan = lambda x: jnp.sum(x * direction)  # noqa: E731
    by_kernel = [jnp.linalg.norm(jax.grad(lambda k, f=f: f(image(k)))(kernel)) for f in (pixels, gan)]
    by_image = [jax.grad(f)(image(kernel)) for f in (pixels, gan)]
    ours = adaptive_weight(decoded, *by_image, patch=2)
    np.testing.assert_allclose(ours, by_kernel[0] / (by_kernel[1] + 1e-4), rtol=1e-5)


@pytest.mark.slow
def test_accumulated_gradients_are_the_mean_over_microbatches(tiny_config):
    tiny_config.gan.discriminator = "none"
    tiny_config.loss.entropy_weight = 0.0  # the only term that is not a mean over images
    images = jnp.asarray(batch_of(tiny_config)["image"], jnp.float32) / 127.5 - 1
    grads = {}
    for count in (1, 4):
        tiny_config.optim.accumulate = count
        task = make_task(tiny_config)
        state = jax.jit(task.init)(jax.random.key(0), {})
        (grads[count], _), running, _ = jax.jit(task.step.accumulate)(state, {}, images, jax.random.key(0))
        # The codes of an earlier microbatch have aged.
        assert int(jnp.sum(running.code_age == 0)) > 0 and int(jnp.max(running.code_age)) == CODE_USAGE_WINDOW
    chex.assert_trees_all_close(grads[1], grads[4], rtol=2e-4, atol=1e-6)


def test_codes_age_by_the_tokens_of_their_codebook():
    age = jnp.array([[0, 5, CODE_USAGE_WINDOW - 1], [7, 7, 7]])
    indices = jnp.array([[[0, 0, 2]], [[2, 0, 0]]])  # two images, three tokens of one codebook
    indices = jnp.concatenate([indices, jnp.full_like(indices, 1)], axis=1)
    np.testing.assert_array_equal(age_codes(age, indices), [[0, 11, 0], [13, 0, 13]])
    np.testing.assert_array_equal(age_codes(age, indices[:, ::-1])[0], [6, 0, CODE_USAGE_WINDOW])


def test_missing_weights_stop_the_run_with_a_complete_message(full_config, tmp_path):
    full_config.weights.teacher = str(tmp_path / "nowhere.safetensors")
    with pytest.raises(pretrained.MissingWeights) as error:
        make_task(full_config)
    for part in ("nowhere.safetensors", "weights.teacher", "huggingface.co", "loss.alignment_weight=0"):
        assert part in str(error.value)


def test_weights_of_another_size_are_refused(full_config):
    full_config.model.encoder.width = 128
    full_config.model.encoder.num_heads = 2
    with pytest.raises(ValueError, match=r"has shape \(1, 1, 64\), but this network's is \(1, 1, 128\)|shape"):
        make_task(full_config)


def test_repeat_alignment_needs_patches_divisible_by_latents(full_config):
    full_config.model.update(num_latent_tokens=6, num_codebooks=2)
    with pytest.raises(ValueError, match="16 teacher patches are not divisible by 6 latent tokens"):
        make_task(full_config)


def size_of_output(section, side):
    """The number of values that the smallest output of a loss's network has."""
    images = jnp.zeros((1, side, side, 3))
    if section == "gan":
        return nnx.eval_shape(lambda: PatchGAN(rngs=nnx.Rngs(0))(images, train=False)).size
    network = functional(LPIPS)
    return jax.eval_shape(lambda params: network(params).features(images)[-1], network.shapes).size


@pytest.mark.parametrize(
    ("section", "values", "least"),
    [("gan", {"discriminator": "patchgan"}, 24), ("loss", {"perceptual_weight": 1.0}, 16)],
)
def test_images_that_are_too_small_for_a_loss_are_refused(tiny_config, section, values, least):
    tiny_config.gan.discriminator = "none"
    check_size(tiny_config, 11)
    with pytest.raises(ValueError, match="the SSIM after the last step needs images of at least 11 pixels"):
        check_size(tiny_config, 10)
    tiny_config[section].update(values)
    assert size_of_output(section, least - 1) == 0 < size_of_output(section, least)
    check_size(tiny_config, least)
    with pytest.raises(ValueError, match=f"images of at least {least} pixels, but model.image_size is {least - 1}"):
        check_size(tiny_config, least - 1)


@pytest.mark.parametrize("other", [0.0, 1e30, np.inf, np.nan])
def test_what_must_come_before_changes_no_value(other):
    values = {"a": jnp.array([1.5, -0.0, np.inf]), "b": jnp.arange(3, dtype=jnp.uint8)}
    program = jax.jit(after)
    chex.assert_trees_all_equal(program(values, {"x": jnp.full((2, 2), other)}), values)
    text = program.lower(values, {"x": jnp.ones((2, 2))}).compile().as_text()
    assert "multiply" in text or "compare" in text, "the compiler has removed the dependency"


@pytest.mark.parametrize("codebook", ["cosine", "constant"])
def test_groups_of_parameters_have_the_same_order_in_every_process(tiny_config, codebook):
    tiny_config.optim.codebook_schedule = codebook
    assert list(make_task(tiny_config).schedules) == ["constant", "cosine"]
