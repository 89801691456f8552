"""`report.html`: one page about a run, with its curves, pictures and evaluations, readable without a network."""

import html
import pathlib
import re
from collections.abc import Iterable, Sequence

from softvq_jax.report import page
from softvq_jax.report.charts import Series, line_chart, number
from softvq_jax.report.run_files import Evaluation, Picture, RunFiles, flatten
from softvq_jax.report.text import LABELS

GROUPS = (
    ("Held out", r"eval_"),
    ("Speed", r"images_per_second|unreadable"),
    ("Adversarial", r"gan_|discriminator(?!_grad)|lecam|logits|consistency|adaptive"),
    ("Codebook and latents", r"code(?!book$)|perplexity|max_probability|quantizer|latent"),
    ("Optimisation", r"grad_norm|learning_rate"),
    ("Losses", r""),
)
"""Title of a group of curves, and what their names match; the first match counts."""

ORDER = ("Losses", "Held out", "Adversarial", "Codebook and latents", "Optimisation", "Speed")
SPELLED = {word.lower(): word for word in ("PSNR", "SSIM", "LPIPS", "FID", "rFID", "gFID", "GAN", "LeCam", "KL", "EMA")}
MOST_EARLIER = 6  # pictures of earlier steps


def build(run: RunFiles) -> str:
    """The page."""
    sections = {
        "curves": ("Curves", _curves(run)),
        "pictures": ("Held-out images", _pictures(run.pictures)),
        "evaluations": ("Evaluation", "\n".join(map(_evaluation, _shown(run.evaluations)))),
        "config": ("Configuration", _config(run)),
    }
    present = {name: (title, content) for name, (title, content) in sections.items() if content}
    links = " ".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in present.items())
    body = "\n".join(page.section(name, title, content) for name, (title, content) in present.items())
    return page.page(
        f"{run.name}: report",
        f"<header><h1>{html.escape(run.name)}</h1>{_summary(run)}<nav>{links}</nav></header>\n"
        f"<main>{_key_numbers(run)}\n{body}\n</main>",
    )


def _summary(run):
    model = run.config.get("model", {})
    kinds = [run.config.get("task"), model.get("bottleneck")]
    if "num_latent_tokens" in model:
        kinds.append(f"{model['num_latent_tokens']} tokens of {model.get('latent_dim')} channels")
    if "image_size" in model:
        kinds.append(f"{model['image_size']} px")
    return f'<p class="soft">{html.escape(", ".join(str(kind) for kind in kinds if kind))}</p>'


def _key_numbers(run):
    """The last step, the last held-out numbers, and what the last evaluation found."""
    cards = []
    if run.metrics:
        cards.append(("training steps", f"{max(steps[-1] for steps, _ in run.metrics.values()):,}"))
    for name, (_, values) in run.metrics.items():
        if name.startswith("eval_") and name != "eval_images":
            cards.append((f"held out: {_words(name.removeprefix('eval_'))}", number(values[-1])))
    for evaluation in _shown(run.evaluations)[-1:]:
        metrics = evaluation.report["metrics"]
        chosen = [name for name in ("fid", "is_mean", "psnr", "lpips") if metrics.get(name) is not None]
        protocol = evaluation.report["protocol"]["name"]
        cards += [(f"{LABELS[name]} ({protocol})", number(metrics[name])) for name in chosen]
    items = (f'<div class="card"><b>{value}</b><span>{html.escape(name)}</span></div>' for name, value in cards)
    return f'<div class="cards">{"".join(items)}</div>' if cards else ""


def _curves(run):
    grouped = {title: [] for title in ORDER}
    silent = []
    for name in sorted(run.metrics):
        if name == "eval_images":
            continue
        if any(run.metrics[name][1]):
            group = next(title for title, pattern in GROUPS if re.match(f".*(?:{pattern})", name))
            grouped[group].append(name)
        else:
            silent.append(name)
    parts = []
    for title, names in grouped.items():
        charts = [line_chart(label, series) for label, series in _pairs(names, run.metrics)]
        if charts:
            parts.append(f'<h3>{title}</h3><div class="charts">{"".join(charts)}</div>')
    if silent:
        parts.append(f'<p class="soft">Always 0: {html.escape(", ".join(map(_words, silent)))}.</p>')
    return "\n".join(parts)


def _pairs(names: Sequence[str], metrics) -> Iterable[tuple[str, list[Series]]]:
    """Charts of one curve each, save that what differs only in `real` and `fake` shares one."""
    charts = {}
    for name in names:
        found = re.fullmatch(r"(.*)_(real|fake)", name)
        label, line = (found[1], found[2]) if found else (name, name)
        charts.setdefault(label, []).append(Series(_words(line), *metrics[name]))
    return ((_title(label.removeprefix("eval_")), series) for label, series in charts.items())


def _pictures(pictures: Sequence[Picture]) -> str:
    parts = []
    for name in dict.fromkeys(picture.name for picture in pictures):
        *earlier, last = [picture for picture in pictures if picture.name == name]
        parts.append(_training_picture(last))
        kept = earlier[:: -(-len(earlier) // MOST_EARLIER) or 1]
        parts.append(page.disclosure(f"Earlier {_words(name)}", *map(_training_picture, kept)))
    return "\n".join(parts)


def _training_picture(picture):
    above = "held-out originals, each above its reconstruction" if picture.name == "reconstructions" else "a grid"
    caption = f"{_title(picture.name)}, step {picture.step:,}"
    return page.picture(picture.path, caption, f"{caption}: {above}")


def _shown(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The last one that the run made itself, whose earlier numbers are among the curves; then those made apart."""
    own = [e for e in evaluations if re.fullmatch(r"step_\d+", e.folder.name)]
    return own[-1:] + [e for e in evaluations if e not in own]


def _evaluation(evaluation: Evaluation) -> str:
    report = evaluation.report
    protocol, counts = report["protocol"], report["counts"]
    warnings = (f'<p class="warning" role="note">{html.escape(line)}</p>' for line in report["warnings"])
    rows = [(LABELS.get(name, name), _value(value)) for name, value in report["metrics"].items()]
    rows += [
        (LABELS.get(name, name), f"absent: {why}")
        for name, why in report["absent"].items()
        if name not in report["metrics"]
    ]
    facts = {"images": ", ".join(f"{_count(counts[side])} {side}" for side in counts)}
    facts |= {name: report.get(name) for name in ("fingerprints", "weights", "crop", "sampling", "versions")}
    facts |= {
        name: protocol[name] for name in ("network", "resize", "normalisation", "features", "moments", "rounding")
    }
    return "\n".join(
        [
            f"<h3>{html.escape(evaluation.folder.name)}: protocol {html.escape(protocol['name'])}</h3>",
            f'<p class="soft">For {html.escape(protocol["about"])}</p>',
            *warnings,
            page.table(["metric", "value"], rows, f"metrics of {evaluation.folder.name}"),
            _code_profile(report),
            *_evaluation_pictures(evaluation),
            page.disclosure(
                "What these numbers depend on",
                page.table(["", ""], [(k, _fact(v)) for k, v in facts.items() if v], "what the numbers depend on"),
            ),
        ]
    )


def _evaluation_pictures(evaluation):
    pairs = "originals in the first row, their reconstructions in the second"
    told = {name: _told(images) for name, images in evaluation.report.get("pictures", {}).items()}
    shown = {
        "worst": (f"The worst reconstructions, by PSNR{told.get('worst', '')}", f"the worst reconstructions: {pairs}"),
        "best": (f"The best reconstructions, by PSNR{told.get('best', '')}", f"the best reconstructions: {pairs}"),
        "latent_map": (
            "A map of the latents: images by the first two principal components of theirs",
            "small images arranged so that those with like latents are near each other",
        ),
    }
    for name, (caption, description) in shown.items():
        if path := evaluation.picture(name):
            yield page.picture(path, caption, description)


def _told(images):
    """`: 17.2 dB (cat.png), ...`: which images a picture shows, from left to right."""
    psnr = ("equal" if image["psnr"] is None else f"{image['psnr']:.2f} dB" for image in images)
    names = (f"{pathlib.PurePath(image['image']).name}; no. {image['index']}" for image in images)
    return ": " + ", ".join(f"{value} ({name})" for value, name in zip(psnr, names, strict=True))


def _code_profile(report):
    profile = report.get("code_profile")
    if not profile:
        return ""
    share = [100 * i / max(len(profile) - 1, 1) for i in range(len(profile))]
    uses = Series("uses over their mean", share, profile)
    chart = line_chart("Use of the codes, over the mean", [uses], "% of codes, most used first", last=False)
    return f'<div class="charts">{chart}</div>'


def _config(run):
    if not run.config:
        return ""
    rows = [(name, str(value)) for name, value in flatten(run.config).items()]
    return page.disclosure(f"All {len(rows)} fields", page.table(["field", "value"], rows, "configuration"))


def _words(name: str) -> str:
    return " ".join(SPELLED.get(word, word) for word in name.split("_"))


def _title(name: str) -> str:
    words = _words(name)
    return words[0].upper() + words[1:]


def _value(value) -> str:
    return "infinite" if value is None else f"{value:.6g}"


def _count(count) -> str:
    return "an unknown number of" if count is None else f"{count:,}"


def _fact(value) -> str:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
