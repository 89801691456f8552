"""The grid initialization: its positions against an explicit formula, and that tokens attend to near ones at first."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.grid_init import positions, rows_and_columns
from softvq_jax.models.tokenizer import TokenizerModel
from tests import small_tokenizers

SIDE = 4  # patches along a side


def model(**options) -> TokenizerModel:
    vit = small_tokenizers.vit(width=64)
    config = small_tokenizers.config(encoder=vit, decoder=vit, num_latent_tokens=8, **options)
    assert config.encoder.grid(config.image_size) == SIDE
    return TokenizerModel(config, rngs=nnx.Rngs(0))


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = np.asarray(positions(2, 4, side=4, width=18))  # 4 frequencies, and two channels that are left over
    wavelengths = [2 * 16 ** (k / 3) for k in range(4)]
    for row in range(2):
        for column in range(4):
            y, x = 2 * row + 0.5, column  # two rows over four patches: between patches 0 and 1, 2 and 3
            expected = [
                wave(2 * math.pi * place / length)
                for place in (y, x)
                for wave in (math.sin, math.cos)
                for length in wavelengths
            ]
            np.testing.assert_allclose(found[4 * row + column], [*expected, 0, 0], atol=1e-5)


@pytest.mark.parametrize(("count", "expected"), [(32, (4, 8)), (64, (8, 8)), (7, (1, 7)), (1, (1, 1))])
def test_the_grid_of_latents_is_as_square_as_possible(count, expected):
    assert rows_and_columns(count) == expected


def test_latents_attend_to_the_patches_near_them():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    maps = jax.jit(lambda images: model(unit_init=True, grid_init=True).encoder.attention_to_patches(images))(images)
    [attention] = np.asarray(maps).mean(axis=1)  # [latents, patches]
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    latent_rows, latent_columns = np.divmod(np.arange(8), 4)
    distance = np.hypot(rows - (2 * latent_rows + 0.5)[:, None], columns - latent_columns[:, None])
    # Two patches are within 1 of each latent. The mean ratio without `grid_init` is 1.1.
    ratios = [row[near].mean() / row[~near].mean() for row, near in zip(attention, distance < 1, strict=True)]
    assert np.mean(ratios) > 2, ratios


def test_what_excludes_it():
    with pytest.raises(ValueError, match="local_init and grid_init are both true"):
        small_tokenizers.config(local_init=True, grid_init=True)
    with pytest.raises(ValueError, match="grid_init is true; it needs a class token"):
        small_tokenizers.config(encoder=small_tokenizers.vit(rope_theta=100.0), grid_init=True)
