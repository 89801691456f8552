"""Training of MAETok and TiTok: masks, auxiliary decoders, the decoder's stage, and every config, shrunk, takes steps."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax import Tokenizer
from softvq_jax.config import load_config
from softvq_jax.config.schemas import check_values
from softvq_jax.models.functional import functional
from softvq_jax.models.siglip import siglip_config
from softvq_jax.models.vit import ViT
from softvq_jax.train import loop
from softvq_jax.train.masked_training import draw_mask
from softvq_jax.train.tasks import TASKS
from softvq_jax.weights import files, pretrained
from softvq_jax.weights.siglip import siglip_rules
from tests.train.conftest import random_tensors
from tests.train.tokenizer_step_test import make_task, take_steps

NAMES = ("maetok_b128", "maetok_b128_512", "maetok_b128_decoder", "titok_bl64_vq8k", "titok_bl64_vae")
SIZE = 64  # HOG needs patches of 16 pixels


def shrunk(name):
    """The config's own recipe on 64 px with transformers of 2 blocks, 64 wide."""
    config = load_config(name)
    small = dict(width=64, depth=2, num_heads=1, patch_size=16)
    for side in ("encoder", "decoder", *(["auxiliary"] if "auxiliary" in config.model else [])):
        config.model[side].update(small)
    config.model.update(image_size=SIZE, num_latent_tokens=8, latent_dim=8, codebook_size=32, dtype="float32")
    config.loss.perceptual_weight = 0.0
    config.gan.update(discriminator="none", start_step=2)
    config.optim.update(warmup_epochs=0.0, learning_rate=1e-3, ema_decay=0.9)
    config.train.update(batch_size=4, num_steps=3)
    config.log.every_steps = 1
    config.evals.held_out.update(num_images=4, num_pictures=2)
    if "masking" in config:
        config.loss.update(dino_weight=0.0, clip_weight=0.0)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_configs_have_allowed_values(name):
    config = load_config(name)
    check_values(config)
    assert set(pretrained.abstract(config).params) == {"lpips"} | (
        {"trunk"} if config.gan.discriminator == "dino" else set()
    ) | ({"teacher"} if config.loss.get("dino_weight", 0) else set()) | (
        {"siglip"} if config.loss.get("clip_weight", 0) else set()
    )


def test_masks():
    """The share is one of a batch and in [0.4, 0.6]; the patches are each image's own; it falls to 0."""
    section = load_config("maetok_b128").masking
    shares = []
    for seed in range(10):
        mask = np.asarray(draw_mask(section, 100, 8, jnp.asarray(7), jax.random.key(seed)))
        counts = mask.sum(1)
        assert np.all(counts == counts[0]) and 40 <= counts[0] <= 60
        assert len(np.unique(mask, axis=0)) == 8
        shares.append(counts[0])
    assert len(set(shares)) > 3
    section = load_config("maetok_b128_decoder").masking
    for step, count in ((0, 39), (25_000, 20), (49_999, 1), (50_000, 0), (60_000, 0)):
        mask = draw_mask(section, 64, 4, jnp.asarray(step), jax.random.key(0))
        assert np.all(np.asarray(mask).sum(1) == count), step


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_maetok_learns_from_hog_features():
    task, state, logs = take_steps(shrunk("maetok_b128"), 2)
    chex.assert_tree_all_finite(logs)
    total = logs[0]["reconstruction"] + logs[0]["hog"]
    np.testing.assert_allclose(logs[0]["generator_total"], total, rtol=1e-6)
    fresh = jax.device_get(jax.jit(task.init)(jax.random.key(0), {})).tokenizer.params
    for path in (("model", "encoder", "mask_token"), ("auxiliary", "hog", "decoder", "mask_token")):
        before, after = fresh, state.tokenizer.params
        for part in path:
            before, after = before[part], after[part]
        assert np.abs(after - before).max() > 0, path
    exported = task.export(state.tokenizer.params)
    assert exported.kind == "maetok" and "auxiliary" not in exported.params


def test_refusals(tmp_path):
    config = shrunk("maetok_b128")
    for side in ("encoder", "decoder", "auxiliary"):
        config.model[side].patch_size = 8
    with pytest.raises(
        ValueError, match=r"HOG features are of patches of 16 pixels, but .* is 8: .*loss\.hog_weight=0"
    ):
        make_task(config)
    config.masking.update(least=0.7, most=0.6)
    with pytest.raises(ValueError, match=r"masking\.least is 0\.7, above masking\.most, 0\.6"):
        make_task(config)
    config = shrunk("titok_bl64_vq8k")
    config.gan.adaptive = True
    with pytest.raises(ValueError, match=r"gan\.adaptive is for decoders that end with a linear map"):
        make_task(config)
    config = shrunk("titok_bl64_vq8k")
    config.model.kind = "softvq"
    with pytest.raises(
        ValueError, match=r"model\.kind is 'softvq', but .* another kind \(see .*\): start .* such as l64"
    ):
        make_task(config)


def run(config, folder):
    results = loop.Run(config, folder, TASKS["tokenizer"]).train()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return results, [line for line in lines if "generator_total" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_the_two_stages_of_a_maetok(frozen_weights, photographs, tmp_path):
    siglip = siglip_config(64, 2, 150, patch_size=14)
    tensors = random_tensors(siglip_rules(siglip), functional(ViT, siglip, 56).shapes)
    files.write_safetensors(tmp_path / "siglip.safetensors", tensors)
    weights = {name: path for name, path in frozen_weights.items() if name != "encoder"}
    weights |= {"siglip": str(tmp_path / "siglip.safetensors")}
    first = shrunk("maetok_b128")
    first.loss.update(dino_weight=1.0, clip_weight=1.0)
    first.gan.update(discriminator="patchgan")
    first.weights.update(weights)
    first.data.update(path=str(photographs), eval_path=str(photographs))
    results, steps = run(first, tmp_path / "first")
    assert [line["step"] for line in steps] == [1, 2, 3] and np.isfinite(results["eval_psnr"])
    assert {"hog", "dino", "clip", "adaptive_weight", "gan_generator"} <= steps[0].keys()
    assert -1 <= steps[0]["dino"] <= 1 and -1 <= steps[0]["clip"] <= 1 and steps[0]["clip"] != steps[0]["dino"]

    second = shrunk("maetok_b128_decoder")
    second.init_from = str(tmp_path / "first")
    second.data.update(path=str(photographs), eval_path=str(photographs))
    _, steps = run(second, tmp_path / "second")
    assert "hog" not in steps[0]
    before, after = (Tokenizer.from_checkpoint(tmp_path / name, raw=True).params for name in ("first", "second"))
    taken = Tokenizer.from_pretrained(tmp_path / "first").params
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], taken["encoder"])
    np.testing.assert_array_equal(after["to_latents"]["kernel"], taken["to_latents"]["kernel"])
    assert np.abs(after["decoder"]["mask_token"] - before["decoder"]["mask_token"]).max() > 0
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    assert Tokenizer.from_pretrained(tmp_path / "second").encode(images).shape == (1, 8, 8)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["titok_bl64_vq8k", pytest.param("titok_bl64_vae", marks=pytest.mark.heavy)])
def test_a_titok_takes_real_steps(name, photographs, tmp_path):
    config = shrunk(name)
    config.gan.discriminator = "patchgan"
    config.data.update(path=str(photographs), eval_path=str(photographs))
    results, steps = run(config, tmp_path / "run")
    assert [line["step"] for line in steps] == [1, 2, 3] and np.isfinite(results["eval_psnr"])
    assert {"gan_generator", "lecam"} <= steps[0].keys()
    assert ({"codebook", "commitment"} if config.model.bottleneck == "vq" else {"kl"}) <= steps[0].keys()
    tokenizer = Tokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.kind == "titok" and tokenizer.config.discrete == (config.model.bottleneck == "vq")
