"""The generation benchmark's decoder and its count of evaluations."""

import jax
import pytest
from flax import nnx

from benchmarks import generation


def test_the_kl_f8_decoder_has_the_published_size():
    """The published decoder of KL-f8 has 49,490,179 parameters."""
    state = nnx.state(nnx.eval_shape(lambda: generation.KLf8Decoder("float32", nnx.Rngs(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 49_490_179


@pytest.mark.parametrize(
    ("steps", "guidance", "high", "evaluations"),
    [
        (250, 1.0, 1.0, 250),
        (250, 1.75, 1.0, 500),
        (5, 1.75, 0.7, 8),  # times 1, .76, .52, .28, .04: three guided
    ],
)
def test_guided_steps_take_two_evaluations(steps, guidance, high, evaluations):
    assert generation.count_evaluations(steps, guidance, high) == evaluations
