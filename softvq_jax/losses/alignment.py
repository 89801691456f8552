"""Alignment of the latents with a teacher's patch tokens (SoftVQ-VAE, section 3.3)."""

import jax
import jax.numpy as jnp

from softvq_jax.unit_vectors import unit_vectors

MODES = ("repeat", "global", "avg_1d", "avg_1d_shuffle")


def check_alignment(mode: str, num_latents: int, num_patches: int) -> None:
    """Raises ValueError if the mode is unknown or cannot pair `num_latents` latents with `num_patches` patches."""
    if mode not in MODES:
        raise ValueError(f"alignment mode is {mode!r}; expected one of {', '.join(MODES)}")
    if mode != "global" and num_patches % num_latents:
        raise ValueError(
            f"alignment mode {mode!r} pairs each latent with the same number of patches, but {num_patches} teacher "
            f"patches are not divisible by {num_latents} latent tokens: change num_latent_tokens, or use mode 'global'"
        )


def alignment_inputs(mode: str, latents: jax.Array) -> jax.Array:
    """Returns the alignment head's inputs: the latents `[B, L, D]`, or their mean `[B, 1, D]` in mode "global"."""
    return jnp.mean(latents, axis=1, keepdims=True) if mode == "global" else latents


def alignment_targets(mode: str, patches: jax.Array, num_latents: int, key: jax.Array | None = None) -> jax.Array:
    """Returns the targets of the alignment head's outputs.

    Args:
      mode: "repeat" takes every patch, "global" the mean of all patches, "avg_1d" means of consecutive patches,
        "avg_1d_shuffle" means of patches in a random order, which is the same for the whole batch.
      patches: the teacher's patch tokens `[B, N, width]`.
      num_latents: `L`.
      key: random key for the order in mode "avg_1d_shuffle".

    Returns:
      `[B, N, width]`, `[B, 1, width]` or `[B, L, width]`.
    """
    if mode == "repeat":
        return patches
    if mode == "global":
        return jnp.mean(patches, axis=1, keepdims=True)
    if mode == "avg_1d_shuffle":
        if key is None:
            raise ValueError("mode 'avg_1d_shuffle' draws a random order: give a key")
        patches = patches[:, jax.random.permutation(key, patches.shape[1])]
    batch, _, width = patches.shape
    return jnp.mean(patches.reshape(batch, num_latents, -1, width), axis=2)


def alignment_loss(projected: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the negative cosine similarity, averaged over targets and batch, in float32.

    Args:
      projected: outputs of the alignment head, `[B, M, width]`.
      targets: `[B, N, width]`; M divides N. Output `i` is compared with targets `i*N/M ... (i+1)*N/M - 1`.
    """
    projected = jnp.repeat(projected, targets.shape[1] // projected.shape[1], axis=1)
    return -jnp.mean(jnp.sum(unit_vectors(projected) * unit_vectors(targets), axis=-1))
