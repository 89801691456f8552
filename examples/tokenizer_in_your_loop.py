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
# `Tokenizer.encode` checks the values of its input, and so cannot be called inside `jax.jit`. Inside your own training
# step, use the network as a pure function of its parameters: then you can jit it, take gradients through it, and decide
# where its parameters live.
#
# First you train a small tokenizer in a loop of your own. Then you freeze it and train a classifier on its latents.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from skimage import data

from softvq_jax import Tokenizer
from softvq_jax.models.functional import functional
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.models.vit import ViTConfig

# %% [markdown]
# ## Data
#
# Crops of four photographs, 32 px; the classes are the photographs.

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
# ## The network as a pure function
#
# `network(params)` is the model with these parameters. Its methods are pure functions of the parameters and the input:
# `encode` maps images `[B, H, W, 3]` to latents `[B, L, D]`, and `decode` maps them back (not clipped to [-1, 1]).

# %%
vit = ViTConfig(width=64, depth=2, num_heads=1, patch_size=8, layer_scale=1.0)
config = TokenizerConfig(vit, vit, image_size=32, num_latent_tokens=16, latent_dim=16, bottleneck="ae", local_init=True)
network = functional(TokenizerModel, config)
params, _ = network.init(jax.random.key(0))

# %% [markdown]
# ## Train it in your own loop
#
# The loss is a pixel loss, the optimizer Adam. If the bottleneck is random in training (KL) or has its own losses,
# call the model itself instead, `network(params)(images, key=key)`, which returns the decoder's features and the
# bottleneck's output with its losses. `softvq_jax/train/tokenizer_step.py` is the complete training step of the paper.

# %%
optimizer = optax.adam(3e-3)


def reconstruction_loss(params, images):
    """Mean squared error of the reconstructions."""
    model = network(params)
    return jnp.mean((model.decode(model.encode(images)) - images) ** 2)


@jax.jit
def train_tokenizer(params, state, images):
    """One step of Adam on the tokenizer."""
    value, grads = jax.value_and_grad(reconstruction_loss)(params, images)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value


rng, state = np.random.default_rng(0), optimizer.init(params)
for i in range(151):
    params, state, value = train_tokenizer(params, state, batch(rng, 16)[0])
    if i % 50 == 0:
        print(f"step {i}: PSNR {10 * np.log10(4 / value):.1f} dB")

# %% [markdown]
# The result is a tokenizer like any other: `Tokenizer(config, params)` encodes, decodes and saves. To start from a
# published one instead, write `tokenizer = Tokenizer.from_pretrained("SoftVQVAE/softvq-l-64")` and make the network
# from `tokenizer.config`.

# %%
tokenizer = Tokenizer(config, params)

# %% [markdown]
# ## Train a classifier on the frozen latents
#
# The tokenizer's parameters are an argument of the step, not a constant in its closure. So they are not compiled
# into the program, and can be sharded. Gradients are taken only with respect to the classifier.

# %%
classifier = {"kernel": jnp.zeros((16 * 16, 4)), "bias": jnp.zeros(4)}
optimizer = optax.adam(1e-3)


def classifier_loss(classifier, frozen, images, labels):
    """Cross-entropy of a linear classifier on the latents, and its accuracy."""
    latents = network(frozen).encode(images)
    logits = latents.reshape(len(images), -1) @ classifier["kernel"] + classifier["bias"]
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), accuracy


@jax.jit
def train_classifier(classifier, state, frozen, images, labels):
    """One step of Adam on the classifier."""
    (value, accuracy), grads = jax.value_and_grad(classifier_loss, has_aux=True)(classifier, frozen, images, labels)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(classifier, updates), state, value, accuracy


rng, state = np.random.default_rng(1), optimizer.init(classifier)
for i in range(151):
    images, labels = batch(rng, 64)
    classifier, state, value, accuracy = train_classifier(classifier, state, tokenizer.params, images, labels)
    if i % 50 == 0:
        print(f"step {i}: loss {value:.3f}, accuracy {accuracy:.2f}")
