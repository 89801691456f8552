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
# A `Tokenizer` is a pytree: pass it to `jax.jit` and `jax.grad` like any other tree of arrays, put it on your mesh with
# `jax.device_put`, and call its methods inside your own step. Three loops show this: an `nnx.Optimizer` that trains a
# tokenizer from scratch, a classifier on the latents of the frozen tokenizer in a jitted and sharded step, and a
# fine-tuning of the decoder alone.

# %%
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from skimage import data

from softvq_jax import Tokenizer
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.models.vit import ViTConfig

# %% [markdown]
# ## Data
#
# Crops of four photographs, 32 px; the classes are the photographs. They are uint8: the tokenizer scales them to [-1, 1].

# %%
photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def batch(rng, size):
    """Random crops `[size, 32, 32, 3]` uint8 and their classes `[size]`."""
    labels = rng.integers(len(photographs), size=size)
    crops = []
    for label in labels:
        top, left = rng.integers(0, [side - 64 for side in photographs[label].shape[:2]])
        crops.append(photographs[label][top : top + 64 : 2, left : left + 64 : 2])
    return np.stack(crops), labels


# %% [markdown]
# ## An `nnx.Optimizer` loop
#
# `Tokenizer.init` makes a fresh tokenizer. To start from a published one, write
# `Tokenizer.from_pretrained("SoftVQVAE/softvq-l-64")` instead; the rest stays the same. `tokenizer.network` is its Flax
# NNX module, which an `nnx.Optimizer` trains.
#
# A bottleneck with a random part (KL) or with losses of its own (SoftVQ, VQ) has more to say during training: then call
# the module itself, `network(images, key=key)`, which returns the decoder's features and the bottleneck's output with its
# losses. `softvq_jax/train/tokenizer_step.py` is the complete training step of the paper.

# %%
vit = ViTConfig(width=64, depth=2, num_heads=1, patch_size=8, layer_scale=1.0)
config = TokenizerConfig(vit, vit, image_size=32, num_latent_tokens=16, latent_dim=16, bottleneck="ae", local_init=True)
tokenizer = Tokenizer.init(config, jax.random.key(0))
print(tokenizer)

network = tokenizer.network
optimizer = nnx.Optimizer(network, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def train(network, optimizer, images):
    """One step of Adam on the mean squared error; `images` are uint8."""
    images = images / 127.5 - 1
    value, grads = nnx.value_and_grad(lambda n: jnp.mean((n.decode(n.encode(images)) - images) ** 2))(network)
    optimizer.update(network, grads)
    return value


rng = np.random.default_rng(0)
for i in range(151):
    value = train(network, optimizer, batch(rng, 16)[0])
    if i % 50 == 0:
        print(f"step {i}: PSNR {10 * np.log10(4 / value):.1f} dB")

# %% [markdown]
# `replace(params=...)` takes the module back: a tokenizer that encodes, decodes and saves like any other.

# %%
tokenizer = tokenizer.replace(params=network)

# %% [markdown]
# ## A frozen tokenizer in a jitted, sharded step
#
# The mesh is yours: any axes, any names, here one axis over all devices. Parameters are replicated, batches are sharded by
# their first axis, and what `encode` returns is sharded like its input.
#
# The tokenizer is an argument of the step, not a constant in its closure. So its parameters are not compiled into
# the program. Gradients are taken only with respect to the classifier.

# %%
mesh = Mesh(np.asarray(jax.devices()), ("data",))
rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

frozen = jax.device_put(tokenizer, everywhere)
classifier = jax.device_put({"kernel": jnp.zeros((16 * 16, 4)), "bias": jnp.zeros(4)}, everywhere)
adam = optax.adam(1e-3)


def classifier_loss(classifier, tokenizer, images, labels):
    """Cross-entropy of a linear classifier on the latents, and its accuracy."""
    latents = tokenizer.encode(images)
    logits = latents.reshape(len(images), -1) @ classifier["kernel"] + classifier["bias"]
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), accuracy


@jax.jit
def train_classifier(classifier, state, tokenizer, images, labels):
    """One step of Adam on the classifier."""
    (value, accuracy), grads = jax.value_and_grad(classifier_loss, has_aux=True)(classifier, tokenizer, images, labels)
    updates, state = adam.update(grads, state)
    return optax.apply_updates(classifier, updates), state, value, accuracy


rng, state = np.random.default_rng(1), adam.init(classifier)
for i in range(151):
    images, labels = jax.device_put(batch(rng, 64), rows)
    classifier, state, value, accuracy = train_classifier(classifier, state, frozen, images, labels)
    if i % 50 == 0:
        print(f"step {i}: loss {value:.3f}, accuracy {accuracy:.2f}")

# %% [markdown]
# ## Fine-tune the decoder
#
# `params` is a plain nested dict, so any part of it can be what is trained. With the encoder as it is, latents and codes
# stay what they were, and generators trained on them remain valid. `clip=False` matters in a loss: the gradient of a pixel
# that is clipped to [-1, 1] is 0.
#
# The gain is measured on the same crops before and after; none of them is trained on.

# %%
steps = 300
adam = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
held_out = batch(np.random.default_rng(3), 64)[0]


def psnr(tokenizer):
    """PSNR of the held-out crops in dB."""
    error = jnp.mean((tokenizer.reconstruct(held_out) - (held_out / 127.5 - 1)) ** 2, axis=(1, 2, 3))
    return float(jnp.mean(10 * jnp.log10(4 / error)))


def decoder_loss(decoder, tokenizer, latents, images):
    """Mean squared error of the decoded latents."""
    tokenizer = tokenizer.replace(params=tokenizer.params | {"decoder": decoder})
    return jnp.mean((tokenizer.decode(latents, clip=False) - images) ** 2)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_decoder(decoder, state, tokenizer, images):
    """One step of Adam on the decoder."""
    latents = tokenizer.encode(images)  # outside of the loss: no gradient reaches the encoder
    value, grads = jax.value_and_grad(decoder_loss)(decoder, tokenizer, latents, images / 127.5 - 1)
    updates, state = adam.update(grads, state)
    return optax.apply_updates(decoder, updates), state, value


decoder = jax.tree.map(jnp.copy, tokenizer.params["decoder"])  # a copy: the step donates it
rng, state = np.random.default_rng(2), adam.init(decoder)
for i in range(steps):
    decoder, state, value = train_decoder(decoder, state, tokenizer, batch(rng, 16)[0])
    if i % 100 == 0:
        print(f"step {i}: mean squared error {value:.4f}")

before, latents = psnr(tokenizer), tokenizer.encode(held_out)
tokenizer = tokenizer.replace(params=tokenizer.params | {"decoder": decoder})
print(f"held-out PSNR {before:.1f} dB, with the new decoder {psnr(tokenizer):.1f} dB")
print("latents unchanged:", bool((tokenizer.encode(held_out) == latents).all()))
