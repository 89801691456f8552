"""DiffAugment (Zhao et al., 2020, arXiv 2006.10738): differentiable distortions of what a discriminator sees."""

from functools import partial

import jax
import jax.numpy as jnp


def diff_augment(key: jax.Array, images: jax.Array, *, probability: float = 0.5, cutout: float = 0.2) -> jax.Array:
    """Colour, translation and cutout, each on the whole batch with `probability`, its strengths drawn per image.

    One key always means one distortion: give real and generated images the same.

    Args:
      key: random key.
      images: `[B, H, W, C]` in [-1, 1].
      probability: of each of the three.
      cutout: side of the square set to 0, as a share of the image's.
    """
    groups = (random_colour, random_translation, partial(random_cutout, share=cutout))
    for group_key, distort in zip(jax.random.split(key, len(groups)), groups, strict=True):
        coin, strengths = jax.random.split(group_key)
        images = jax.lax.cond(
            jax.random.bernoulli(coin, probability), distort, lambda _, images: images, strengths, images
        )
    return images


def random_colour(key: jax.Array, images: jax.Array) -> jax.Array:
    """Brightness within +-0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    draws = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1))
    return adjust_colour(images, draws[0] - 0.5, 2 * draws[1], 0.5 + draws[2])


def adjust_colour(images: jax.Array, brightness: jax.Array, saturation: jax.Array, contrast: jax.Array) -> jax.Array:
    """Adds brightness, then scales the distance from each pixel's grey, then that from the image's mean."""
    images = images + brightness
    grey = jnp.mean(images, axis=-1, keepdims=True)
    images = (images - grey) * saturation + grey
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) * contrast + mean


def random_translation(key: jax.Array, images: jax.Array) -> jax.Array:
    """Whole pixels, up to an eighth of the side either way."""
    reach = jnp.array(_reach(images))
    return translate(images, jax.random.randint(key, (images.shape[0], 2), -reach, reach + 1))


def translate(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Moves image `i` down and right by the whole pixels `shifts[i]`, at most an eighth of its side; zeros come in."""
    rows, columns = _reach(images)
    padded = jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))

    def window(image, shift):
        return jax.lax.dynamic_slice(image, (rows - shift[0], columns - shift[1], 0), images.shape[1:])

    return jax.vmap(window)(padded, shifts)


def _reach(images):
    return [_rounded(side / 8) for side in images.shape[1:3]]


def random_cutout(key: jax.Array, images: jax.Array, *, share: float) -> jax.Array:
    """A square of `share` of the side, centred anywhere in the image."""
    sides = [_rounded(share * side) for side in images.shape[1:3]]
    # An even square has its centre between pixels: one place more.
    places = jnp.array([size + 1 - side % 2 for size, side in zip(images.shape[1:3], sides, strict=True)])
    return cut_out(images, jax.random.randint(key, (images.shape[0], 2), 0, places), sides)


def cut_out(images: jax.Array, centres: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """Sets the `side` rows and columns from `centre - side//2` on to 0, as far as they are in the image."""

    def inside(length, centre, side):
        offset = jnp.arange(length) - (centre[:, None] - side // 2)
        return (offset >= 0) & (offset < side)

    rows, columns = (inside(images.shape[1 + i], centres[:, i], sides[i]) for i in (0, 1))
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0, images)


def _rounded(x: float) -> int:
    """To the nearest whole number, halves up."""
    return int(x + 0.5)
