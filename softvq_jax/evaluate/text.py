"""An evaluation's report in words."""

LABELS = {
    "fid": "FID",
    "sfid": "sFID",
    "is": "Inception score",
    "is_mean": "Inception score",
    "is_std": "Inception score, deviation over splits",
    "precision_recall": "Precision and recall",
    "precision": "Precision",
    "recall": "Recall",
    "f_score": "F-score of precision and recall",
    "kid": "KID",
    "kid_mean": "KID",
    "kid_std": "KID, deviation over subsets",
    "psnr": "PSNR (dB)",
    "ssim_gauss": "SSIM, Gaussian 11 x 11",
    "ssim_uniform7": "SSIM, uniform 7 x 7",
    "ssim_uniform7_range2": "SSIM, uniform 7 x 7, range 2 on [0, 1]",
    "lpips": "LPIPS-VGG",
    "code_use": "Codebook use",
    "perplexity": "Codebook perplexity",
    "latent_mean": "Latent mean",
    "latent_std": "Latent standard deviation",
}
"""Metrics, and the groups of them that `Protocol.metrics` names, as people write them."""


def as_text(report: dict) -> str:
    """All numbers of `evaluation.report`, each with its protocol and counts, and beneath them what they depend on."""
    lines = [*_metric_lines(report), ""]
    lines += [f"no {LABELS[name]}: {reason}" for name, reason in report["absent"].items()]
    lines += [f"warning: {line}" for line in report["warnings"]]
    protocol = report["protocol"]
    lines.append(f"protocol {protocol['name']}, for {protocol['about']}")
    for name in ("network", "resize", "normalisation", "features", "moments", "rounding"):
        lines.append(f"  {name}: {protocol[name]}")
    for name in ("fingerprints", "weights", "crop"):
        lines.append(f"  {name}: " + ", ".join(f"{key} {value or 'none'}" for key, value in report[name].items()))
    if report["sampling"]:
        lines.append("  sampling: " + ", ".join(f"{key} {value}" for key, value in report["sampling"].items()))
    return "\n".join(lines)


def _metric_lines(report):
    counts = [f"{_count(report['counts'][side])} {side}" for side in ("samples", "reference")]
    setting = ", ".join([report["protocol"]["name"], *counts])
    width = max(map(len, LABELS.values()))
    for name, value in report["metrics"].items():
        number = "infinite" if value is None else f"{value:.6g}"
        yield f"{LABELS[name]:{width}}  {number:>12}  ({setting})"


def _count(count):
    return "unknown number of" if count is None else f"{count:,}"
