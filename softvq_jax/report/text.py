"""Evaluations as plain text, and names of metrics for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from softvq_jax.metrics.registry import titles
from softvq_jax.report import renamed_metrics

LABELS = titles() | {
    "psnr": "PSNR (dB)",
    "equal_pairs": "Images identical to their originals",
    "psnr_differing": "PSNR (dB) of the others",
    "ssim_gauss": "SSIM, Gaussian 11 x 11",
    "ssim_uniform7": "SSIM, uniform 7 x 7",
    "ssim_uniform7_range2": "SSIM, uniform 7 x 7, range 2 on [0, 1]",
    "lpips": "LPIPS-VGG",
    "codebook_usage": "Codebook usage",
    "perplexity": "Codebook perplexity",
    "latent_mean": "Latent mean",
    "latent_std": "Latent std",
}
"""Labels of metrics, and of the groups of metrics in `Protocol.metrics`."""

PROTOCOL_FACTS = ("network", "resize", "normalization", "features", "moments", "rounding")
"""Keys of an evaluation's `protocol` that are shared by all protocols."""

_SPELLING = {
    word.lower(): word
    for word in ("PSNR", "SSIM", "LPIPS", "FID", "rFID", "gFID", "GAN", "LeCam", "KL", "EMA", "MFU", "GiB")
}


def as_text(evaluation: Mapping[str, Any]) -> str:
    """Returns text with all numbers of an evaluation, their protocol and image counts, and what they depend on.

    Args:
      evaluation: JSON values, as in `evaluation.json`.
    """
    evaluation = renamed_metrics.evaluation(evaluation)
    lines = [*_metric_lines(evaluation), ""]
    lines += [f"no {LABELS[name]}: {reason}" for name, reason in evaluation["absent"].items()]
    lines += [f"warning: {line}" for line in evaluation["warnings"]]
    protocol = evaluation["protocol"]
    lines.append(f"protocol {protocol['name']}, for {protocol['description']}")
    lines += [f"  {name}: {protocol[name]}" for name in PROTOCOL_FACTS]
    lines += [f"  {name}: {setting}" for name, setting in protocol["settings"].items()]
    sizes = {name: "{} x {} pixels".format(*size) for name, size in evaluation["sizes"].items()}
    crops = {name: f"{crop}, {sizes.get(name, 'size unknown')}" for name, crop in evaluation["crop"].items()}
    counts = {name: "unknown" if count is None else f"{count:,}" for name, count in evaluation["counts"].items()}
    facts = {"images": counts, "fingerprints": evaluation["fingerprints"], "weights": evaluation["weights"]}
    facts |= {"crop": crops, "sampling": evaluation["sampling"] or {}, "compute": evaluation["compute"]}
    for name, values in facts.items():
        if values:
            items = (f"{key} {'none' if value is None else value}" for key, value in values.items())
            lines.append(f"  {name}: {', '.join(items)}")
    return "\n".join(lines).encode(errors="backslashreplace").decode()  # names of files may be no text


def value_text(value: float | None) -> str:
    """Returns a metric's value with six digits; None means the infinite PSNR of identical images."""
    return "infinite" if value is None else f"{value:.6g}"


def image_counts(counts: Mapping[str, int | None]) -> str:
    """Returns text such as `64 samples and 64 reference images`, given the counts of each set; None means unknown."""
    names = {
        "samples": "samples",
        "reference": "reference images",
        "reference statistics": "images of the statistics file",
    }
    return " and ".join(
        f"{'an unknown number of' if count is None else format(count, ',')} {names.get(name, name)}"
        for name, count in counts.items()
    )


def words(name: str) -> str:
    """Returns a metric's name in words: `eval_psnr` becomes `eval PSNR`."""
    return " ".join(_SPELLING.get(word, word) for word in name.split("_"))


def capitalized(text: str) -> str:
    """Returns a text with its first letter in upper case and the others unchanged."""
    return text[:1].upper() + text[1:]


def _metric_lines(evaluation: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, LABELS.values()))
    for name, value in evaluation["metrics"].items():
        counts = [_count(key, count, evaluation["counts"]) for key, count in evaluation["metric_counts"][name].items()]
        setting = ", ".join([evaluation["protocol"]["name"], *counts])
        yield f"{LABELS[name]:{width}}  {value_text(value):>12}  ({setting})"


def _count(name: str, count: int | None, counts: Mapping[str, int | None]) -> str:
    """Returns text on the number of images of one set that a metric is computed from."""
    number = "an unknown number of" if count is None else f"{count:,}"
    image_set, _, statistics = name.partition(" ")
    if statistics:
        return f"statistics of {number} {image_set} images"
    return f"{number} {image_set}" if count == counts[name] else f"{number} of {counts[name]:,} {image_set}"
