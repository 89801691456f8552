"""The random numbers that the benchmark of the training step passes to its peer."""

import jax
import numpy as np
import pytest

from benchmarks.step_draws import STRONG, WEAK, step_draws
from softvq_jax.losses.diff_augment import adjust_color, cut_out, diff_augment, translate
from softvq_jax.models.discriminators import area_resize, fit
from softvq_jax.train.tokenizer_step import STRONG_CUTOUT

SIDE, SIZE, BATCH = 24, 16, 2


def generator_key(key, step):
    """The key of the generator's augmentation, as `TokenizerStep` splits it."""
    return jax.random.split(jax.random.split(jax.random.fold_in(key, step), 3)[0], 3)[2]


@pytest.mark.slow
@pytest.mark.parametrize("step", range(4))
def test_the_draws_are_those_of_the_augmentations(step):
    key = jax.random.key(3)
    draws = step_draws(key, step, BATCH, SIDE, SIZE)
    images = jax.random.uniform(jax.random.key(1), (BATCH, SIDE, SIDE, 3))
    discriminator_keys = jax.random.split(jax.random.split(jax.random.fold_in(key, step), 3)[1], 4)
    for index, own in enumerate([generator_key(key, step), *discriminator_keys]):
        strong = index > 2
        augment, crop = jax.random.split(own)
        options = {"probability": 1.0, "cutout": STRONG_CUTOUT} if strong else {}
        expected = fit(diff_augment(augment, images, **options), SIZE, crop)
        view = {name: values[index] for name, values in draws.items()}
        np.testing.assert_allclose(apply(view, images, STRONG if strong else WEAK), expected, atol=1e-6)


def apply(view, images, share):
    """One augmentation by given numbers."""
    if view["color"]:
        strengths = (view[name][:, None, None, None] for name in ("brightness", "saturation", "contrast"))
        images = adjust_color(images, *strengths)
    if view["translation"]:
        images = translate(images, view["shifts"])
    if view["cutout"]:
        images = cut_out(images, view["centers"], [round(share * SIDE)] * 2)
    if not view["crop"]:
        return area_resize(images, SIZE)
    top, left = view["corner"]
    return images[:, top : top + SIZE, left : left + SIZE]
