"""A study's table, as JSON values and as Markdown."""

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


def content(config: ConfigDict, rows: Sequence[dict]) -> dict:
    """Returns all measured values, and the settings shared by all runs."""
    train = config.base.train
    return {
        "study": config.study,
        "variants": len(config.variants),
        "finished": len(rows),
        "steps": train.num_steps,
        "batch_size": train.batch_size,
        "image_size": config.base.model.image_size,
        "data": config.base.data.path or config.base.data.source,
        "rows": list(rows),
    }


def markdown(config: ConfigDict, rows: Sequence[dict]) -> str:
    """Returns a Markdown table of the config's columns, with one row per variant; leaves out columns without values."""
    columns = [name for name in config.table.columns if any(name in row for row in rows)]
    lines = [["", config.table.x, *(LABELS[name] for name in columns)]]
    lines.append(["---", *["---:"] * (1 + len(columns))])
    for row in rows:
        cells = [row["diverged"]] if "diverged" in row else [_cell(row.get(name)) for name in columns]
        lines.append([row["line"], _cell(row["x"]), *cells, *[""] * (len(columns) - len(cells))])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
