"""An evaluation's report in words."""

from softvq_jax.metrics.registry import titles

LABELS = titles() | {
    "psnr": "PSNR (dB)",
    "equal_pairs": "Images equal to their originals",
    "psnr_differing": "PSNR (dB) of the others",
    "ssim_gauss": "SSIM, Gaussian 11 x 11",
    "ssim_uniform7": "SSIM, uniform 7 x 7",
    "ssim_uniform7_range2": "SSIM, uniform 7 x 7, range 2 on [0, 1]",
    "lpips": "LPIPS-VGG",
    "codebook_usage": "Codebook usage",
    "code_use": "Codebook usage",  # in older files
    "perplexity": "Codebook perplexity",
    "latent_mean": "Latent mean",
    "latent_std": "Latent standard deviation",
}
"""Metrics, and the groups of them that `Protocol.metrics` names, as people write them."""


def as_text(report: dict) -> str:
    """All numbers of `evaluation.report`, each with its protocol and images, and beneath them what they depend on."""
    lines = [*_metric_lines(report), ""]
    lines += [f"no {LABELS[name]}: {reason}" for name, reason in report["absent"].items()]
    lines += [f"warning: {line}" for line in report["warnings"]]
    protocol = report["protocol"]
    lines.append(f"protocol {protocol['name']}, for {protocol['about']}")
    for name in ("network", "resize", "normalisation", "features", "moments", "rounding"):
        lines.append(f"  {name}: {protocol[name]}")
    lines += [f"  {name}: {words}" for name, words in protocol["settings"].items()]
    sizes = {name: "{} x {} pixels".format(*size) for name, size in report["sizes"].items()}
    crops = {name: f"{crop}, {sizes.get(name, 'size unknown')}" for name, crop in report["crop"].items()}
    counts = {name: "unknown" if count is None else f"{count:,}" for name, count in report["counts"].items()}
    facts = {"images": counts, "fingerprints": report["fingerprints"], "weights": report["weights"], "crop": crops}
    facts |= {"sampling": report["sampling"] or {}, "compute": report["compute"]}
    for name, values in facts.items():
        if values:
            words = (f"{key} {'none' if value is None else value}" for key, value in values.items())
            lines.append(f"  {name}: {', '.join(words)}")
    return "\n".join(lines)


def _metric_lines(report):
    width = max(map(len, LABELS.values()))
    for name, value in report["metrics"].items():
        used = [_used(key, count, report["counts"]) for key, count in report["metric_counts"][name].items()]
        setting = ", ".join([report["protocol"]["name"], *used])
        number = "infinite" if value is None else f"{value:.6g}"
        yield f"{LABELS[name]:{width}}  {number:>12}  ({setting})"


def _used(name, count, counts):
    """The images of one set that a metric is made of."""
    number = "an unknown number of" if count is None else f"{count:,}"
    side, _, statistics = name.partition(" ")
    if statistics:
        return f"statistics of {number} {side} images"
    return f"{number} {side}" if count == counts[name] else f"{number} of {counts[name]:,} {side}"
