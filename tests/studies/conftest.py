"""The small runs of the training tests."""

from tests.train.conftest import frozen_weights, tiny_config  # noqa: F401 (fixtures)
