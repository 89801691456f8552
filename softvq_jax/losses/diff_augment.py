"""DiffAugment (Zhao et al., 2020, arXiv 2006.10738): differentiable augmentations of a discriminator's inputs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from softvq_jax.parallel import batch_random


def diff_augment(key: jax.Array, images: jax.Array, *, probability: float = 0.5, cutout: float = 0.2) -> jax.Array:
    """Augments images by color, translation and cutout, each applied to the whole batch with `probability`.

    Strengths are drawn per image. The same key gives the same augmentation: use one for real and generated images.

    Args:
      key: random key.
      images: `[B, H, W, C]` in [-1, 1].
      probability: probability of each of the three augmentations.
      cutout: side of the square that is set to 0, as a share of the image's side.
    """
    # New functions in every call: JAX keeps the traces of a branch by its function, and inside `batch_random.piece` a trace
    # holds the index of the piece, which is another array in the next trace.
    groups = (
        lambda key, images: random_color(key, images),
        lambda key, images: random_translation(key, images),
        lambda key, images: random_cutout(key, images, share=cutout),
    )
    for group_key, distort in zip(jax.random.split(key, len(groups)), groups, strict=True):
        coin, strengths = jax.random.split(group_key)
        images = jax.lax.cond(
            jax.random.bernoulli(coin, probability), distort, lambda _, images: images, strengths, images
        )
    return images


def random_color(key: jax.Array, images: jax.Array) -> jax.Array:
    """Changes brightness by -0.5 to 0.5, saturation by a factor of 0 to 2 and contrast by a factor of 0.5 to 1.5."""
    draws = batch_random.uniform(key, (3, images.shape[0], 1, 1, 1), axis=1)
    return adjust_color(images, draws[0] - 0.5, 2 * draws[1], 0.5 + draws[2])


def adjust_color(images: jax.Array, brightness: jax.Array, saturation: jax.Array, contrast: jax.Array) -> jax.Array:
    """Adds `brightness`, scales distances from each pixel's gray value, then distances from the image's mean."""
    images = images + brightness
    gray = jnp.mean(images, axis=-1, keepdims=True)
    images = (images - gray) * saturation + gray
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) * contrast + mean


def random_translation(key: jax.Array, images: jax.Array) -> jax.Array:
    """Translates each image by whole pixels, up to an eighth of its side in each direction."""
    reach = jnp.array(_reach(images))
    return translate(images, batch_random.randint(key, (images.shape[0], 2), -reach, reach + 1))


def translate(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Moves image `i` down and right by `shifts[i]` pixels, at most an eighth of its side, and fills with zeros."""
    rows, columns = _reach(images)
    padded = jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))

    def window(image, shift):
        return jax.lax.dynamic_slice(image, (rows - shift[0], columns - shift[1], 0), images.shape[1:])

    return jax.vmap(window)(padded, shifts)


def _reach(images):
    return [_rounded(side / 8) for side in images.shape[1:3]]


def random_cutout(key: jax.Array, images: jax.Array, *, share: float) -> jax.Array:
    """Cuts out a square of `share` times the image's sides, with its center anywhere in the image."""
    sides = [_rounded(share * side) for side in images.shape[1:3]]
    # The center of a square with an even side lies between pixels, which gives one more position.
    positions = jnp.array([size + 1 - side % 2 for size, side in zip(images.shape[1:3], sides, strict=True)])
    return cut_out(images, batch_random.randint(key, (images.shape[0], 2), 0, positions), sides)


def cut_out(images: jax.Array, centers: jax.Array, sides: Sequence[int]) -> jax.Array:
    """Sets the square of `sides` around each center to 0; it starts at `center - side//2` and may leave the image."""

    def inside(length, center, side):
        offset = jnp.arange(length) - (center[:, None] - side // 2)
        return (offset >= 0) & (offset < side)

    rows, columns = (inside(images.shape[1 + i], centers[:, i], sides[i]) for i in (0, 1))
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0, images)


def _rounded(x: float) -> int:
    """Returns the nearest integer; halves are rounded up."""
    return int(x + 0.5)
