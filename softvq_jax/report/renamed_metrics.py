"""Maps names that older versions wrote to `metrics.jsonl` and `evaluation.json` to the current names."""

from collections.abc import Mapping
from typing import Any

METRICS = {
    "code_use": "codebook_usage",
    "codebook_use": "codebook_usage",
    "eval_codebook_use": "eval_codebook_usage",
}
PROTOCOL = {"about": "description", "normalisation": "normalization"}


def metric(name: str) -> str:
    """Returns the current name of a logged metric."""
    return METRICS.get(name, name)


def evaluation(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON values of an `evaluation.json` with current names."""
    renamed = {key: _renamed(content.get(key, {}), METRICS) for key in ("metrics", "metric_counts", "absent")}
    return {**content, **renamed, "protocol": _renamed(content["protocol"], PROTOCOL)}


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in fields.items()}
