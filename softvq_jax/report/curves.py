"""The curves of a run: the metrics shown, their groups and their titles."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from softvq_jax.report.charts import Chart, Series, line_chart
from softvq_jax.report.text import capitalized, words

GROUPS = (
    ("Held-out", r"eval_"),
    ("Speed", r"images_per_second|unreadable|mfu|data_wait|goodput|device_memory"),
    ("Adversarial", r"gan_|discriminator(?!_grad)|lecam|logits|consistency|adaptive"),
    ("Codebook and latents", r"code(?!book$)|perplexity|max_probability|quantizer|latent"),
    ("Optimization", r"grad_norm|learning_rate"),
    ("Losses", r""),
)
"""Title of each group of curves, and a pattern for the names of its metrics; the first match counts."""

ORDER = ("Losses", "Held-out", "Adversarial", "Codebook and latents", "Optimization", "Speed")
LINES = {"raw": "weights of the step"}  # legends of curves that share a chart, by the ending of their names
COUNTS = ("eval_images", "eval_samples")  # logged with held-out metrics; the same at every step

Metrics = Mapping[str, tuple[Sequence[int], Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Curves:
    """The charts of a run.

    Attributes:
      groups: titles with their charts.
      always_zero: names of metrics that are 0 at every step, and so have no chart.
    """

    groups: list[tuple[str, list[Chart]]]
    always_zero: list[str]


def curves(metrics: Metrics) -> Curves:
    """Draws the curves of all metrics; `NAME_real` and `NAME_fake` share a chart, and so do `NAME` and `NAME_raw`.

    Args:
      metrics: logged steps and values by name.
    """
    shown = [name for name in sorted(metrics) if name not in COUNTS]
    nonzero = [name for name in shown if any(metrics[name][1])]
    groups = [(title, [name for name in nonzero if group_of(name) == title]) for title in ORDER]
    return Curves(
        [(title, _charts(names, metrics)) for title, names in groups if names],
        [metric_title(name) for name in shown if name not in nonzero],
    )


def metric_title(name: str) -> str:
    """Returns the title of a metric's chart; held-out and training metrics have different titles."""
    if name == "codebook_usage":
        return "Codebook usage, recent training steps"
    if name.startswith("eval_") and name.endswith("_raw"):
        return f"{metric_title(name.removesuffix('_raw'))}, {LINES['raw']}"
    if name.startswith("eval_"):
        return f"Held-out {words(name.removeprefix('eval_'))}"
    return capitalized(words(name))


def group_of(name: str) -> str:
    """Returns the title of the group that a metric's chart is in."""
    return next(title for title, pattern in GROUPS if re.match(f".*(?:{pattern})", name))


def _charts(names: Sequence[str], metrics: Metrics) -> list[Chart]:
    lines = {}
    for name in names:
        found = re.fullmatch(r"(.*)_(real|fake|raw)", name)
        chart, line = (found[1], LINES.get(found[2], found[2])) if found else (name, name)
        if f"{name}_raw" in names:
            line = "averaged weights"
        lines.setdefault(chart, []).append(Series(words(line), *metrics[name]))
    return [line_chart(metric_title(chart), series) for chart, series in lines.items()]
