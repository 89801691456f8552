"""The random numbers of a tokenizer's training step, drawn as the step draws them."""

import jax
import jax.numpy as jnp

WEAK, STRONG = 0.2, 0.5  # sides of the cutout, as a share of the image's


def step_draws(key: jax.Array, step: jax.Array, batch: int, side: int, size: int) -> dict[str, jax.Array]:
    """Returns the numbers of the five augmentations of a step: one of the generator, four of the discriminator.

    A comparison of losses with the step itself (`side_by_side.py`) shows whether they are the step's.

    Args:
      key: the run's key.
      step: number of completed steps.
      batch: images in a step.
      side: side of the images in pixels.
      size: side of the discriminator's images.
    """
    generator, discriminator, _ = jax.random.split(jax.random.fold_in(key, step), 3)
    keys = [jax.random.split(generator, 3)[2], *jax.random.split(discriminator, 4)]
    views = [_augmentation(key, batch, side, size, strong=i > 2) for i, key in enumerate(keys)]
    return {name: jnp.stack([view[name] for view in views]) for name in views[0]}


def _augmentation(key, batch, side, size, *, strong):
    augment, crop = jax.random.split(key)
    (color, colors), (translation, shifts), (cutout, centers) = (
        jax.random.split(key) for key in jax.random.split(augment, 3)
    )
    reach, hole = int(side / 8 + 0.5), int((STRONG if strong else WEAK) * side + 0.5)
    brightness, saturation, contrast = jax.random.uniform(colors, (3, batch, 1, 1, 1))[..., 0, 0, 0]
    coin, place = jax.random.split(crop)
    probability = 1.0 if strong else 0.5
    return {
        "color": jax.random.bernoulli(color, probability),
        "brightness": brightness - 0.5,
        "saturation": 2 * saturation,
        "contrast": 0.5 + contrast,
        "translation": jax.random.bernoulli(translation, probability),
        "shifts": jax.random.randint(shifts, (batch, 2), -reach, reach + 1),
        "cutout": jax.random.bernoulli(cutout, probability),
        "centers": jax.random.randint(centers, (batch, 2), 0, side + 1 - hole % 2),
        "crop": jax.random.bernoulli(coin) & (side > size),
        "corner": jax.random.randint(place, (2,), 0, jnp.array([side - size + 1] * 2)),
    }
