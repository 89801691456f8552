# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sample from a generator
#
# A generator models the latents of a tokenizer, class by class. It turns noise and a class label into latents, which
# the tokenizer decodes. Here you train a small tokenizer and a small SiT on its latents, and draw images. The classes are
# the eight photographs in scikit-image.
#
# With a network connection, skip the training and open published weights instead:
#
# ```python
# tokenizer = Tokenizer.from_pretrained("SoftVQVAE/softvq-l-64")
# generator = Generator.from_pretrained("SoftVQVAE/sit-xl_softvq-l-64", statistics="SoftVQVAE/softvq-l-64")
# ```

# %%
import pathlib
import tempfile

import jax
import numpy as np
from PIL import Image

from softvq_jax import Generator, Tokenizer
from softvq_jax.config import load_config
from softvq_jax.train.loop import Run
from softvq_jax.train.tasks import TASKS

work = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## The tokenizer
#
# 32 px images, 16 tokens of 8 channels.

# %%
config = load_config("tiny_patches")
config.model.update(image_size=32, num_latent_tokens=16, latent_dim=8, bottleneck="ae")
config.optim.update(warmup_epochs=20.0, ema_decay=0.97)
config.train.num_steps = 80
config.evals.held_out.update(every_steps=0, num_images=16)

results = Run(config, work / "tokenizer", TASKS[config.task]).train()
tokenizer = Tokenizer.from_pretrained(work / "tokenizer")
print(f"held-out PSNR: {results['eval_psnr']:.1f} dB")

# %% [markdown]
# ## The generator
#
# A small SiT. The frozen tokenizer encodes random crops inside the training step. For a large data set, encode once
# with `tools.encode_latents` instead.

# %%
config = load_config("tiny_sit")
config.tokenizer = str(work / "tokenizer")
config.model.update(num_tokens=16, channels=8, width=96, depth=2, num_heads=3)
config.sampling.steps = 10
config.optim.update(learning_rate=3.2e-2, warmup_epochs=25.0, ema_decay=0.98)
config.train.update(batch_size=16, num_steps=200)
config.evals.held_out.update(every_steps=0, num_images=16, num_pictures=8)
config.evals.nearest_class.every_steps = 0

Run(config, work / "generator", TASKS[config.task]).train()
generator = Generator.from_pretrained(work / "generator")

# %% [markdown]
# ## Sample
#
# `sample` takes class labels and a random key, and returns latents `[B, L, D]` that the tokenizer decodes. Sample `i`
# depends on the key, on `i` and on its label only, not on the size of the batch.

# %%
labels = np.repeat(np.arange(8), 4)  # four samples of each class
latents = generator.sample(labels, key=jax.random.key(0), steps=25, guidance=1.5)
images = tokenizer.decode(latents)
print(latents.shape, "->", images.shape)


def grid(images, columns):
    """Images `[B, H, W, 3]` in [-1, 1] as one picture, column by column."""
    pixels = np.asarray(np.round((images + 1) * 127.5), np.uint8)
    columns = [
        np.concatenate(pixels[i : i + len(pixels) // columns]) for i in range(0, len(pixels), len(pixels) // columns)
    ]
    picture = Image.fromarray(np.concatenate(columns, axis=1))
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)


grid(images, columns=8)

# %% [markdown]
# One column per class; the generator carries the names of the classes of its training data. After such short training,
# expect their colors rather than their shapes.

# %%
print(", ".join(generator.class_names))

# %% [markdown]
# ## From noise to images
#
# `denoise` takes the same arguments, and returns the latents after each step. The command `softvq denoise` makes such a
# strip, or an animation.

# %%
states = generator.denoise(np.arange(8), key=jax.random.key(0), steps=25, guidance=1.5)
shown = states[:: -(-len(states) // 6)][:5].reshape(-1, *states.shape[2:])
strip = np.concatenate([tokenizer.decode(shown), tokenizer.decode(states[-1])])
grid(strip, columns=6)

# %% [markdown]
# ## Samplers, steps and guidance
#
# A SiT has the stochastic sampler `sde_euler_maruyama` (the default) and the deterministic `ode_euler` and `ode_heun`.
# Guidance above 1 makes samples more typical of their class. The times run from 1 (noise) to 0 (image), and
# `guidance_interval` limits guidance to some of them.

# %%
for guidance in (1.0, 3.0):
    latents = generator.sample(labels, key=jax.random.key(0), sampler="ode_heun", steps=10, guidance=guidance)
    images = np.asarray(tokenizer.decode(latents)).reshape(8, 4, -1)
    print(f"guidance {guidance}: standard deviation within a class {images.std(axis=1).mean():.3f}")
