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
# # Reconstruct a photograph
#
# A tokenizer turns an image into a short sequence of continuous tokens, its *latents*, and the latents back into the
# image. Here you train a very small one on the photographs in scikit-image, and look at its reconstructions.
#
# With a network connection, skip the training and open a published tokenizer instead:
# `Tokenizer.from_pretrained("SoftVQVAE/softvq-l-64")`. Everything after the training stays the same.

# %%
import pathlib
import tempfile

import numpy as np
from PIL import Image
from skimage import data

from softvq_jax import Tokenizer
from softvq_jax.config import load_config
from softvq_jax.train.loop import Run
from softvq_jax.train.tasks import TASKS

# %% [markdown]
# ## Train
#
# The config `tiny_patches` makes a small tokenizer: 64 px images, 64 tokens of 16 channels, two blocks deep, and no
# loss that needs downloaded weights. With its own 1,600 steps it reaches 25.9 dB. Here you train for 100 steps only.

# %%
config = load_config("tiny_patches")
config.train.update(batch_size=8, num_steps=100)
config.optim.update(learning_rate=8e-2, warmup_epochs=10.0, ema_decay=0.97)
config.evals.held_out.update(every_steps=0, num_images=8)

workdir = pathlib.Path(tempfile.mkdtemp())
results = Run(config, workdir, TASKS[config.task]).train()
print(f"held-out PSNR: {results['eval_psnr']:.1f} dB")

# %% [markdown]
# ## Encode and decode
#
# The run's workdir holds the trained tokenizer. `from_pretrained` takes a workdir, a folder or a Hugging Face id.

# %%
tokenizer = Tokenizer.from_pretrained(workdir)
size = tokenizer.config.image_size
print(
    f"{size} x {size} pixels -> {tokenizer.config.num_latent_tokens} tokens of {tokenizer.config.latent_dim} channels"
)

# %% [markdown]
# Images are float32 arrays `[B, H, W, 3]` in [-1, 1]. The photograph is larger than the tokenizer's images, so it is
# cut into tiles, which make one batch.

# %%
photograph = data.chelsea()[22:278, 96:352]  # a cat, 256 x 256 pixels
tiles = photograph.reshape(256 // size, size, 256 // size, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
images = tiles.astype(np.float32) / 127.5 - 1

latents = tokenizer.encode(images)
reconstructions = tokenizer.decode(latents)
print("images", images.shape, "-> latents", latents.shape, "-> images", reconstructions.shape)

# %%
tiles = np.asarray(np.round((reconstructions + 1) * 127.5), np.uint8)
reconstruction = tiles.reshape(256 // size, 256 // size, size, size, 3).swapaxes(1, 2).reshape(256, 256, 3)
mean_squared_error = np.mean((photograph.astype(np.float32) - reconstruction) ** 2)
print(f"PSNR: {10 * np.log10(255**2 / mean_squared_error):.1f} dB")
Image.fromarray(np.concatenate([photograph, reconstruction], axis=1))

# %% [markdown]
# ## Save
#
# `save_pretrained` writes `config.json` and `model.safetensors` in the layout of the published weights.

# %%
tokenizer.save_pretrained(workdir / "my-tokenizer")
same = Tokenizer.from_pretrained(workdir / "my-tokenizer")
print(np.array_equal(same.encode(images), latents))
