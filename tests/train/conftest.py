"""A tokenizer run small enough to compile in seconds, and random weights of the frozen networks in real layouts."""

import contextlib
import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.models.functional import functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.train import preemption
from softvq_jax.weights import files, layout, lpips
from softvq_jax.weights.vit import vit_rules

# Below 40 px the last convolutions of PatchGAN, and of LPIPS, make 2 x 2 pixels, for which XLA has slow code on CPUs.
SIZE, PATCH = 48, 12
TRUNK = ViTConfig(width=64, depth=4, num_heads=1, patch_size=PATCH, activation="gelu_tanh", layer_scale=None)
DINOV2 = ViTConfig(width=64, depth=2, num_heads=1, patch_size=14, layer_scale=1e-5)


@pytest.fixture(autouse=True)
def _shared_programs(shared_programs):
    """All runs here share their compiled programs."""


def tiny():
    """A full GAN run without frozen networks: pixels, entropy, PatchGAN; 48 px, two narrow blocks."""
    config = tokenizer_config("S", "S")
    for vit in (config.model.encoder, config.model.decoder):
        vit.update(width=64, depth=2, num_heads=1, patch_size=PATCH, layer_scale=0.1)
    config.model.update(
        image_size=SIZE, num_latent_tokens=8, latent_dim=8, codebook_size=32, num_codebooks=2, dtype="float32"
    )
    config.weights.encoder = ""
    config.loss.update(perceptual_weight=0.0, alignment_weight=0.0)
    config.gan.update(discriminator="patchgan", start_step=2, consistency_weight=0.0)
    config.optim.update(warmup_epochs=0.0, ema_decay=0.9)
    config.train.update(batch_size=8, num_steps=6)
    config.data.update(source="embedded", augment="random_region", holdout=0.25)
    config.checkpoint.update(every_steps=2)
    config.log.every_steps = 1
    config.evals.held_out.update(every_steps=0, num_images=8, num_pictures=4)
    return config


@pytest.fixture
def tiny_config():
    return tiny()


def random_tensors(rules, shapes, seed=0):
    """A state dict of the network that `rules` and `shapes` describe, with small random values."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)
    return layout.write(rules, params)


@pytest.fixture(scope="session")
def frozen_weights(tmp_path_factory):
    """Files of all frozen networks, small where the network allows it: `{field of config.weights: path}`."""
    folder = tmp_path_factory.mktemp("weights")

    def save(name, rules, net):
        files.write_safetensors(folder / f"{name}.safetensors", random_tensors(rules, net.shapes))
        return str(folder / f"{name}.safetensors")

    dinov2 = save("dinov2", vit_rules(DINOV2), functional(ViT, DINOV2, 56))
    lpips_file = save("lpips", lpips.lpips_rules(), functional(LPIPS))
    dino = save("dino", vit_rules(TRUNK), functional(ViT, TRUNK, SIZE))
    return {"encoder": dinov2, "teacher": dinov2, "lpips_trunk": lpips_file, "lpips_heads": lpips_file, "dino": dino}


@pytest.fixture
def full_config(tiny_config, frozen_weights):
    """The whole recipe at the tiny size: encoder from DINOv2, alignment, LPIPS, DINO discriminator, consistency."""
    config = tiny_config
    config.weights.update(frozen_weights)
    config.loss.update(perceptual_weight=1.0, alignment_weight=0.1)
    config.alignment.hidden = 32
    config.gan.update(discriminator="dino", consistency_weight=4.0)
    return config


@pytest.fixture
def preempt_at(monkeypatch):
    """Context that preempts a run at its n-th check for preemption."""

    @contextlib.contextmanager
    def at(question):
        asked = itertools.count(1)
        with monkeypatch.context() as patch:
            patch.setattr(preemption.Preemption, "requested", lambda self: next(asked) == question)
            yield

    return at


@pytest.fixture
def photographs(tmp_path):
    """A folder of 24 small pictures in two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "photographs" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((60, 48), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return tmp_path / "photographs"
