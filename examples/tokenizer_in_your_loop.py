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
# # The tokenizer in your training loop
#
# `Tokenizer.encode` checks its input, and so cannot be called inside `jax.jit`. Inside your own training step, use the network
# as a pure function of its parameters: then you can jit it, take gradients through it, and decide where its parameters live.
#
# This notebook uses a tokenizer that was not trained. In your code, write
# `tokenizer = Tokenizer.from_pretrained("SoftVQVAE/softvq-l-64")`, or give the workdir of a run.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from skimage import data

from softvq_jax import Tokenizer
from softvq_jax.models.functional import Functional
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.models.vit import ViTConfig

vit = ViTConfig(width=64, depth=2, num_heads=1, patch_size=8, layer_scale=1.0)
config = TokenizerConfig(vit, vit, image_size=32, num_latent_tokens=16, latent_dim=16, bottleneck="ae", local_init=True)
params, _ = Functional(lambda rngs: TokenizerModel(config, rngs=rngs)).init(jax.random.key(0))
tokenizer = Tokenizer(config, params)

# %% [markdown]
# ## The network as a pure function
#
# `network(params)` is the model with these parameters. Its methods are pure functions of the parameters and the images.

# %%
network = Functional(lambda rngs: TokenizerModel(tokenizer.config, rngs=rngs))


def encode(params, images):
    """Images `[B, H, W, 3]` in [-1, 1] to latents `[B, L, D]`."""
    return network(params).encode(images)


def decode(params, latents):
    """Latents `[B, L, D]` to images `[B, H, W, 3]`, not clipped."""
    return network(params).decode(latents)


# %% [markdown]
# ## Data
#
# Crops of four photographs; the class is the photograph.

# %%
photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def batch(rng, size):
    """Random crops `[size, 32, 32, 3]` in [-1, 1] and their classes `[size]`."""
    labels = rng.integers(len(photographs), size=size)
    crops = []
    for label in labels:
        top, left = rng.integers(0, [side - 64 for side in photographs[label].shape[:2]])
        crops.append(photographs[label][top : top + 64 : 2, left : left + 64 : 2])
    return np.stack(crops).astype(np.float32) / 127.5 - 1, labels


# %% [markdown]
# ## Train a classifier on the latents
#
# The tokenizer's parameters are an argument of the step and not a constant that it closes over: so they are not compiled into the
# program, and can be sharded. Gradients are taken with respect to the classifier alone; `stop_gradient` says the same to the reader.

# %%
classifier = {"kernel": jnp.zeros((16 * 16, 4)), "bias": jnp.zeros(4)}
optimizer = optax.adam(1e-3)


def loss(classifier, frozen, images, labels):
    """Cross-entropy of a linear classifier on the latents, and its accuracy."""
    latents = jax.lax.stop_gradient(encode(frozen, images))
    logits = latents.reshape(len(images), -1) @ classifier["kernel"] + classifier["bias"]
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), accuracy


@jax.jit
def step(classifier, state, frozen, images, labels):
    """One step of Adam."""
    (value, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(classifier, frozen, images, labels)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(classifier, updates), state, value, accuracy


rng, state = np.random.default_rng(0), optimizer.init(classifier)
for i in range(301):
    images, labels = batch(rng, 32)
    classifier, state, value, accuracy = step(classifier, state, tokenizer.params, images, labels)
    if i % 100 == 0:
        print(f"step {i}: loss {value:.3f}, accuracy {accuracy:.2f}")

# %% [markdown]
# ## Gradients through the tokenizer
#
# Gradients flow through `encode` and `decode`, with respect to their inputs and to the parameters. Here: latents that
# decode to a given image, found by gradient descent.

# %%
image, _ = batch(np.random.default_rng(1), 1)
latents = jnp.zeros((1, 16, 16))
optimizer = optax.adam(5e-2)
state = optimizer.init(latents)


@jax.jit
def improve(latents, state, frozen, image):
    """One step towards latents that decode to `image`."""
    error, grad = jax.value_and_grad(lambda latents: jnp.mean((decode(frozen, latents) - image) ** 2))(latents)
    updates, state = optimizer.update(grad, state)
    return optax.apply_updates(latents, updates), state, error


for i in range(201):
    latents, state, error = improve(latents, state, tokenizer.params, image)
    if i % 100 == 0:
        print(f"step {i}: mean squared error {error:.4f}")

# %% [markdown]
# A bottleneck with a random part (KL) or with a codebook loss has more to say during training: call the model itself,
# `network(params)(images, key=key)`, which returns the decoder's features and the bottleneck's output with its losses.
# `softvq_jax/train/tokenizer_step.py` is the complete training step.
