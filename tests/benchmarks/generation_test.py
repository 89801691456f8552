"""The generation benchmark measures what it says."""

import jax
import pytest
from flax import nnx

from benchmarks import generation


def test_usual_decoder_has_the_published_size():
    """KL-f8's decoder as it is distributed holds 49,490,179 numbers."""
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
def test_evaluations(steps, guidance, high, evaluations):
    assert generation.count_evaluations(steps, guidance, high) == evaluations
