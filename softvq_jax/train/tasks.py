"""The tasks by their name in `config.task`."""

from softvq_jax.train.generator_task import GeneratorTask
from softvq_jax.train.task import Task
from softvq_jax.train.tokenizer_task import TokenizerTask

TASKS: dict[str, type[Task]] = {"tokenizer": TokenizerTask, "generator": GeneratorTask}
