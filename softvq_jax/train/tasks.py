"""The tasks that a config can name."""

from softvq_jax.train import pretrained
from softvq_jax.train.tokenizer_task import TokenizerTask


def tokenizer(config, **run) -> TokenizerTask:
    """A tokenizer run; reads the frozen networks' weights first."""
    return TokenizerTask(config, pretrained.load(config), **run)


TASKS = {"tokenizer": tokenizer}
