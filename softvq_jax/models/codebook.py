"""Codebook operations: segments of the token sequence, distances, gradients, code counts, the entropy loss."""

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.unit_vectors import unit_vectors

ENTROPY_TEMPERATURE = 0.01


def uniform_codebook(rngs: nnx.Rngs, num_codebooks: int, codebook_size: int, dim: int) -> jax.Array:
    """Returns a new codebook `[C, K, D]`, uniform in [-1/K, 1/K]."""
    bound = 1.0 / codebook_size
    return jax.random.uniform(rngs.params(), (num_codebooks, codebook_size, dim), minval=-bound, maxval=bound)


def segment(z: jax.Array, num_codebooks: int) -> jax.Array:
    """Cuts the token sequence into segments: `[B, L, D] -> [C, B, L/C, D]`."""
    batch, length, dim = z.shape
    return z.reshape(batch, num_codebooks, length // num_codebooks, dim).swapaxes(0, 1)


def unsegment(z: jax.Array) -> jax.Array:
    """Joins segments: `[C, B, L/C, D] -> [B, L, D]`, the inverse of `segment`."""
    num_codebooks, batch, length, dim = z.shape
    return z.swapaxes(0, 1).reshape(batch, num_codebooks * length, dim)


def gather(codes: jax.Array, indices: jax.Array) -> jax.Array:
    """Looks up `codes` `[C, K, D]` at `indices` `[B, C, L/C]`; returns `[B, L, D]`."""
    batch, num_codebooks, length = indices.shape
    z_q = codes[jnp.arange(num_codebooks)[None, :, None], indices]
    return z_q.reshape(batch, num_codebooks * length, -1)


def squared_distances(z: jax.Array, codes: jax.Array) -> jax.Array:
    """Returns `|z - c|^2` between each token and each code of its segment's codebook, `[C, B, L/C, K]`.

    Args:
      z: segments `[C, B, L/C, D]`.
      codes: `[C, K, D]`.
    """
    products = jnp.einsum("cbld,ckd->cblk", z, codes)
    return jnp.sum(z * z, -1)[..., None] + jnp.sum(codes * codes, -1)[:, None, None] - 2 * products


def straight_through(z: jax.Array, z_q: jax.Array) -> jax.Array:
    """Returns `z_q` with the gradient of `z`."""
    return z + jax.lax.stop_gradient(z_q - z)


def mean_cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the mean cosine of the angle between vectors `[..., D]`."""
    return jnp.mean(jnp.sum(unit_vectors(a) * unit_vectors(b), -1))


def entropy_loss(logits: jax.Array, mean_floor: float) -> jax.Array:
    """Returns `mean_tokens H(q) - H(mean_tokens q)`, `q = softmax(logits / 0.01)`, over all tokens of all codebooks.

    Low if each token's distribution is concentrated on one code and all codes are used equally: the KL term of
    SoftVQ-VAE, equation 5.

    Args:
      logits: `[..., K]`.
      mean_floor: added inside the logarithm of the second term, as the released code does.
    """
    logits = logits.reshape(-1, logits.shape[-1]) / ENTROPY_TEMPERATURE
    q, log_q = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    mean = jnp.mean(q, axis=0)
    return -jnp.mean(jnp.sum(q * log_q, -1)) + jnp.sum(mean * jnp.log(mean + mean_floor))


def code_counts(indices: jax.Array, codebook_size: int, weights: jax.Array | None = None) -> jax.Array:
    """Counts the occurrences of each code, `[B, C, L/C] -> [C, K]` float32; image `b` has weight `weights[b]`."""
    codebook = jnp.arange(indices.shape[1])[None, :, None]
    amount = 1.0 if weights is None else jnp.broadcast_to(weights[:, None, None], indices.shape)
    return jnp.zeros((indices.shape[1], codebook_size), jnp.float32).at[codebook, indices].add(amount)


def perplexity(indices: jax.Array, codebook_size: int) -> jax.Array:
    """Returns `exp` of the entropy of the codes `indices` `[B, C, L/C]` of this batch, averaged over codebooks."""
    counts = code_counts(indices, codebook_size)
    shares = counts / jnp.sum(counts, -1, keepdims=True)
    return jnp.mean(jnp.exp(-jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)), -1)))
