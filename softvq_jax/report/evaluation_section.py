"""The section of a run's page about an `evaluation.json`."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from softvq_jax.report.charts import Chart, Series, line_chart
from softvq_jax.report.page import EmbeddedImage, Table, embed
from softvq_jax.report.run_files import Evaluation
from softvq_jax.report.text import LABELS, PROTOCOL_FACTS, capitalized, image_counts, value_text

QUOTED = LABELS["ssim_gauss"]  # the SSIM to quote; the others are for comparison with papers that used them


@dataclasses.dataclass(frozen=True)
class EvaluationView:
    """The template's values for one evaluation.

    Attributes:
      images: text on the number of images in each set.
      missing: metrics that were not measured, with reasons.
      details: everything that the numbers depend on.
    """

    title: str
    images: str
    warnings: list[str]
    metrics: Table
    missing: list[str]
    code_profile: Chart | None
    pictures: list[EmbeddedImage]
    details: Table


def latest_evaluations(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Returns the last evaluation made during training, then all evaluations by `tools.evaluate`.

    The numbers of earlier evaluations during training are shown as curves.
    """
    own = [e for e in evaluations if re.fullmatch(r"step_\d+", e.folder.name)]
    return own[-1:] + [e for e in evaluations if e not in own]


def view(evaluation: Evaluation) -> EvaluationView:
    """Returns the template's values for an evaluation."""
    content, name = evaluation.content, evaluation.folder.name
    metrics = [(LABELS.get(str(key), str(key)), value_text(value)) for key, value in content["metrics"].items()]
    missing = {key: reason for key, reason in content["absent"].items() if key not in content["metrics"]}
    return EvaluationView(
        f"{name}: protocol {content['protocol']['name']}",
        f"Measured on {image_counts(content['counts'])}.",
        content["warnings"],
        Table(f"metrics of {name}", ("metric", "value"), metrics, quote=QUOTED),
        [f"{LABELS.get(key, key)} ({reason})" for key, reason in missing.items()],
        _code_profile(content),
        _pictures(evaluation),
        Table("what the numbers depend on", ("", ""), _details(content)),
    )


def _details(content: dict[str, Any]) -> list[tuple[str, str]]:
    protocol = content["protocol"]
    facts: dict[str, Any] = {
        name: content.get(name) for name in ("fingerprints", "weights", "crop", "sampling", "versions")
    }
    facts |= {name: protocol.get(name) for name in PROTOCOL_FACTS}
    facts["the protocol is for"] = protocol.get("description")
    return [(name, _fact(value)) for name, value in facts.items() if value]


def _fact(value: Any) -> str:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _pictures(evaluation: Evaluation) -> list[EmbeddedImage]:
    listed = evaluation.content.get("pictures", {})
    pictures = []
    for name in ("worst", "best"):
        if path := evaluation.picture(name):
            title = f"{capitalized(name)} reconstructions by PSNR"
            values = f": {_listed(listed[name])}" if name in listed else ""
            alt = f"{title}: originals in the first row, their reconstructions in the second"
            pictures.append(embed(path, title + values, alt))
    if path := evaluation.picture("latent_map"):
        caption = "Map of the latents: images placed by the first two principal components of their latents"
        pictures.append(embed(path, caption, f"{caption}; images with similar latents are near each other"))
    return pictures


def _listed(images: Sequence[dict[str, Any]]) -> str:
    """Returns PSNR and name of each image in a picture, from left to right: `17.25 dB (cat.png, no. 3), ...`."""
    return ", ".join(
        f"{'identical' if image['psnr'] is None else format(image['psnr'], '.2f') + ' dB'} "
        f"({pathlib.PurePath(image['image']).name}, no. {image['index']})"
        for image in images
    )


def _code_profile(content: dict[str, Any]) -> Chart | None:
    profile = content.get("code_profile")
    if not profile:
        return None
    percent = [100 * i / max(len(profile) - 1, 1) for i in range(len(profile))]
    uses = Series("tokens over the mean", percent, profile)
    return line_chart("Tokens per code, over the mean", [uses], "% of codes, most used first", show_last=False)
