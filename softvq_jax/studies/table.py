"""A study's table, as JSON values and as Markdown."""

import math
import statistics
from collections.abc import Sequence

from ml_collections import ConfigDict

from softvq_jax.report import text

LABELS = text.LABELS | {
    "ssim_gauss": "SSIM",
    "rfid": "rFID",
    "latent_numbers": "Latent values",
    "bits": "Bits per image",
    "codebook_usage_uniform": "Usage of uniform draws",
    "posterior_entropy": "Posterior entropy / log K",
    "max_probability": "Max probability",
    "grad_norm": "Gradient norm",
    "grad_norm_peak": "Gradient norm, max / median",
    **{
        f"{kind}_{part}_{side}": f"{words}, {tokens}, {side}"
        for kind, words in (("probe", "Linear probe"), ("knn", "k-NN"))
        for part, tokens in (("pooled", "mean token"), ("all", "all tokens"))
        for side in ("before", "after")
    },
    "probe_pixels": "Linear probe, 8 x 8 pixels",
    "knn_pixels": "k-NN, 8 x 8 pixels",
    "probe_chance": "Most frequent class (chance)",
}
"""Labels of the columns."""


def mean(runs: Sequence[dict]) -> dict:
    """Returns the means of the values of runs that differ only in their seed.

    The item `standard_errors` has the standard errors of the means that come from different values (the sample standard
    deviation over the root of the number of runs). If a run diverged, the result is the error message of that run alone.
    """
    if diverged := [run for run in runs if "diverged" in run]:
        return diverged[0]
    means, errors = dict(runs[0]), {}
    for column in means:
        values = [run[column] for run in runs]
        if len(set(values)) > 1:
            means[column] = statistics.fmean(values)
            errors[column] = statistics.stdev(values) / math.sqrt(len(values))
    return means | ({"standard_errors": errors} if errors else {})


def content(config: ConfigDict, rows: Sequence[dict]) -> dict:
    """Returns all measured values, and the settings shared by all runs."""
    train = config.base.train
    return {
        "study": config.study,
        "variants": len(config.variants),
        "finished": sum(len(row.get("runs", [row])) == config.seeds for row in rows),
        "seeds": config.seeds,
        "steps": train.num_steps,
        "batch_size": train.batch_size,
        "image_size": config.base.model.image_size,
        "data": config.base.data.path or config.base.data.source,
        "rows": list(rows),
    }


def markdown(config: ConfigDict, rows: Sequence[dict]) -> str:
    """Returns a Markdown table of the config's columns, with one row per variant; leaves out columns without values.

    With several seeds, a cell is `mean ± standard error`, or the value alone if all runs have the same; a column has
    the number of finished runs.
    """
    columns = [name for name in config.table.columns if any(name in row for row in rows)]
    counts = ["Runs"] if config.seeds > 1 else []
    lines = [["", config.table.x, *counts, *(LABELS[name] for name in columns)]]
    lines.append(["---", *["---:"] * (1 + len(counts) + len(columns))])
    for row in rows:
        errors = row.get("standard_errors", {})
        cells = [_cell(row.get(name), errors.get(name)) for name in columns]
        if "diverged" in row:
            cells = [row["diverged"], *[""] * (len(columns) - 1)]
        lines.append([row["line"], _cell(row["x"]), *(_cell(len(row["runs"])) for _ in counts), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value, error=None) -> str:
    if value is None:
        return ""
    if error is not None:
        decimals = max(0, 1 - math.floor(math.log10(error)))  # two digits of the error
        return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
