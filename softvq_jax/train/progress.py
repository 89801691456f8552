"""The log lines that show a run's progress."""

from collections.abc import Mapping

import clu.parameter_overview

from softvq_jax.progress import duration
from softvq_jax.train.speed import in_words

SHOWN = ("generator_total", "reconstruction", "perceptual", "alignment", "gan_generator", "discriminator_total", "loss")
"""Losses in the log, of those that the task has."""


def progress_line(step: int, num_steps: int, batch_size: int, values: Mapping[str, float]) -> str:
    """Returns a line such as `step 200/1000  loss 0.12  350 images/s  01:23 left`, given the metrics of a step."""
    rate = values["images_per_second"]
    left = (num_steps - step) * batch_size / max(rate, 1e-9)
    losses = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
    if "learning_rate" in values:
        losses += f"  lr {values['learning_rate']:.3g}"
    return f"step {step}/{num_steps}  {losses}  {in_words(values)}  {duration(left)} left"


def parameter_table(params) -> str:
    """Returns the number of parameters by module, three levels deep, and their sum.

    clu's table would have one line for each array: 866 lines for SoftVQ-L.
    """
    count = clu.parameter_overview.count_parameters

    def lines(tree, path=""):
        for name, child in tree.items():
            inner = f"{path}/{name}".lstrip("/")
            if isinstance(child, dict) and inner.count("/") < 2:
                yield from lines(child, inner)
            else:
                yield inner, count({name: child})

    rows = [*lines(params), ("all", count(params))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {number:>13,}" for name, number in rows)
