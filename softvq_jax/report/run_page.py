"""The page `report.html` of a run, with curves, images, evaluations and config, readable without a network."""

import dataclasses

from softvq_jax.plurals import counted
from softvq_jax.report import page
from softvq_jax.report.charts import number
from softvq_jax.report.curves import COUNTS, curves, metric_title
from softvq_jax.report.evaluation_section import latest_evaluations, view
from softvq_jax.report.page import EmbeddedImage, Table, embed
from softvq_jax.report.run_files import Picture, RunFiles, flatten
from softvq_jax.report.text import LABELS, capitalized, words

MAX_EARLIER = 6  # number of images of earlier steps
SPEED = {"images_per_second_per_chip": "images/s per chip", "mfu": "MFU", "goodput": "goodput"}
SHARES = ("mfu", "goodput")  # shown in percent
IMAGE_KINDS = {
    "reconstructions": ("Held-out images", "held-out originals, each above its reconstruction"),
    "samples": ("Samples", "a grid of generated images"),
}


@dataclasses.dataclass(frozen=True)
class ImageSection:
    """The images with one name that a run wrote during training: the last, and at most `MAX_EARLIER` earlier ones."""

    id: str
    title: str
    name: str
    last: EmbeddedImage
    earlier: list[EmbeddedImage]


def build(run: RunFiles) -> str:
    """Returns the HTML page of a run."""
    charts, images = curves(run.metrics), _image_sections(run.pictures)
    evaluations = [view(evaluation) for evaluation in latest_evaluations(run.evaluations)]
    config = Table("configuration", ("field", "value"), [(k, str(v)) for k, v in flatten(run.config).items()])
    links = [("curves", "Curves")] * bool(charts.groups or charts.always_zero)
    links += [(group.id, group.title) for group in images]
    links += [("evaluations", "Evaluation")] * bool(evaluations) + [("config", "Configuration")] * bool(config.rows)
    return page.render(
        "run.html.j2",
        name=run.name,
        summary=_summary(run),
        links=links,
        cards=_cards(run),
        curves=charts,
        images=images,
        evaluations=evaluations,
        config=config,
    )


def _summary(run: RunFiles) -> str:
    model = run.config.get("model", {})
    parts = [run.config.get("task"), model.get("family") or model.get("bottleneck")]
    if "num_latent_tokens" in model:
        parts.append(f"{model['num_latent_tokens']} tokens of {model.get('latent_dim')} channels")
    if "num_tokens" in model:
        codes = f"{model['num_tokens']} codes out of {model.get('codebook_size')}"
        parts.append(f"{model['num_tokens']} tokens of {model['channels']} channels" if "channels" in model else codes)
    if "num_classes" in model:
        parts.append(counted(model["num_classes"], "class", "classes"))
    if "image_size" in model:
        parts.append(f"{model['image_size']} px")
    return ", ".join(str(part) for part in parts if part)


def _cards(run: RunFiles) -> list[tuple[str, str]]:
    """Returns labels and values of the key numbers: last step, speed, last held-out metrics, last evaluation."""
    cards = []
    if run.metrics:
        cards.append(("training steps", f"{max(steps[-1] for steps, _ in run.metrics.values()):,}"))
    for name, label in SPEED.items():
        if name in run.metrics:
            value = run.metrics[name][1][-1]
            cards.append((label, f"{value:.0%}" if name in SHARES else number(value)))
    for name, (_, values) in run.metrics.items():
        if name.startswith("eval_") and name not in COUNTS:
            title = metric_title(name)
            cards.append((title[:1].lower() + title[1:], number(values[-1])))
    for evaluation in latest_evaluations(run.evaluations)[-1:]:
        metrics, protocol = evaluation.content["metrics"], evaluation.content["protocol"]["name"]
        chosen = [name for name in ("fid", "is_mean", "psnr", "lpips") if metrics.get(name) is not None]
        cards += [(f"{LABELS[name]} ({protocol})", number(metrics[name])) for name in chosen]
    return cards


def _image_sections(pictures: list[Picture]) -> list[ImageSection]:
    sections = []
    for name in dict.fromkeys(picture.name for picture in pictures):
        title, content = IMAGE_KINDS.get(name, (capitalized(words(name)), "a grid of images"))
        *earlier, last = [picture for picture in pictures if picture.name == name]
        kept = earlier[:: -(-len(earlier) // MAX_EARLIER) or 1]
        newest, *older = [_embedded(picture, content) for picture in (last, *kept)]
        sections.append(ImageSection(f"images-{name}", title, words(name), newest, older))
    return sections


def _embedded(picture: Picture, content: str) -> EmbeddedImage:
    title = f"{capitalized(words(picture.name))}, step {picture.step:,}"
    return embed(picture.path, title, f"{title}: {content}")
