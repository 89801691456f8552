"""The record saved in a run's checkpoints, which is compared with the run when it resumes."""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.fields import flatten
from softvq_jax.config.schemas import field_values, schema_of
from softvq_jax.train.compatibility import check_config, check_data, check_weights, differences
from softvq_jax.train.task import Task, data_of
from softvq_jax.weights import fingerprints

OPTIONAL = {"published", "changes"}  # keys that records of older versions lack


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Identifies a run.

    Attributes:
      config: the run's config by dotted field names, as JSON values.
      defaults: default values of the declared fields, in the same form.
      weights: fingerprints of the pretrained networks by name.
      data: the version of the training samples (`train.data.Data.version`).
      published: `task.published`, with which a checkpoint can be exported without the task.
      changes: of the config during the run: `{"step", "next_sample", "fields": {field: [before, now]}}` for each time
        that it went on with other fields.
    """

    config: dict[str, Any]
    defaults: dict[str, Any]
    weights: dict[str, str]
    data: dict
    published: dict
    changes: tuple[dict, ...] = ()

    @classmethod
    def from_task(cls, config: ConfigDict, task: Task) -> "RunRecord":
        """Returns the record of a run whose task is open."""
        networks = task.frozen | task.initial
        weights = {name: fingerprints.of_weights(network) for name, network in networks.items()}
        declared = ((name, field.default) for name, field in flatten(schema_of(config)).items())
        values, defaults = ({name: _plain(x) for name, x in pairs} for pairs in (field_values(config), declared))
        return cls(values, defaults, weights, data_of(task).version, dict(task.published))

    def at_step(self, step: int, unreadable_images: int = 0) -> dict[str, Any]:
        """Returns the JSON values saved with a checkpoint; the position in the data is a global sample index."""
        return {
            "step": step,
            "config": self.config,
            "weights": self.weights,
            "data": self.data,
            "next_sample": _position(step, self.config, self.changes),
            "unreadable_images": unreadable_images,
            "published": self.published,
            "changes": list(self.changes),
        }

    def check(self, saved: dict[str, Any], workdir: pathlib.Path, *, allow_changes: bool = False) -> None:
        """Checks that a checkpoint is of this run.

        Args:
          saved: its record.
          workdir: of the run.
          allow_changes: accepts other values of fields that a run may change when it goes on.

        Raises:
          ValueError: it is of another run, lacks fields or has values of other types; the message names them.
        """
        if missing := self.at_step(0).keys() - saved.keys() - OPTIONAL:
            raise ValueError(
                f"the checkpoints in {workdir} are of an older version: their record lacks "
                f"{', '.join(sorted(missing))}. Use another workdir"
            )
        for name, value in self.at_step(0).items():
            if name in saved and type(saved[name]) is not type(value):
                raise ValueError(
                    f"the record of the checkpoints in {workdir} has {name}={saved[name]!r:.80}; expected "
                    f"{type(value).__name__}: it was edited. Restore it from a copy, or use another workdir"
                )
        if wrong := _wrong_value(saved):
            raise ValueError(
                f"the record of the checkpoints in {workdir} has {wrong}: it was edited. Restore it from a copy, or use "
                "another workdir"
            )
        check_config(saved["config"], self.config, self.defaults, allow_changes=allow_changes)
        check_weights(saved["weights"], self.weights, saved["config"], self.config)
        check_data(saved["data"], self.data, self.config["data.path"])

    def after(self, saved: dict[str, Any]) -> "RunRecord":
        """Returns the record of this run after a checkpoint: with the earlier changes of the config, and those of now."""
        changes = list(saved.get("changes", ()))
        if fields := differences(saved["config"], self.config, self.defaults):
            changes.append({"step": saved["step"], "next_sample": saved["next_sample"], "fields": fields})
        return dataclasses.replace(self, changes=tuple(changes))

    def check_position(self, saved: dict[str, Any]) -> None:
        """Raises ValueError if a checkpoint's position in the data does not follow from its step."""
        expected = _position(saved["step"], saved["config"], saved.get("changes", ()))
        if saved["next_sample"] != expected:
            raise ValueError(
                f"the checkpoint of step {saved['step']} continues with sample {saved['next_sample']}, but steps of "
                f"train.batch_size={saved['config']['train.batch_size']} samples lead to {expected}: its record was "
                "changed; use another workdir"
            )


def _position(step, config, changes):
    """The global sample index after `step` steps: counted from the last change, since which the batch is the same."""
    start = changes[-1] if changes else {"step": 0, "next_sample": 0}
    return start["next_sample"] + (step - start["step"]) * config["train.batch_size"]


def _wrong_value(saved: dict[str, Any]) -> str:
    """Returns a value of a record that has the right type, but that no run writes; "" if there is none."""
    size, parts, changes = saved["config"].get("train.batch_size"), saved["data"].get("parts"), saved.get("changes", [])
    right = {
        f"config.train.batch_size={size!r:.80}": _is_count(size) and size > 0,
        f"data={saved['data']!r:.80}": isinstance(saved["data"].get("fingerprint"), str) and isinstance(parts, dict),
        f"changes={changes!r:.80}": all(map(_is_change, changes)),
    } | {f"{name}={saved[name]!r:.80}": saved[name] >= 0 for name in ("step", "next_sample", "unreadable_images")}
    return next((value for value, is_right in right.items() if not is_right), "")


def _is_change(change: Any) -> bool:
    return (
        isinstance(change, dict)
        and _is_count(change.get("step"))
        and _is_count(change.get("next_sample"))
        and isinstance(change.get("fields"), dict)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
