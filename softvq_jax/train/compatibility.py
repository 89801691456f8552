"""Checks that a run can resume from its checkpoints: config, frozen networks and data must be the same."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Sections and fields of the config that do not change what a step computes. They include paths, because the content of
# the files is compared instead.
FREE_SECTIONS = ("log", "eval", "fid", "evals", "checkpoint", "mesh", "weights")
FREE_FIELDS = (
    "data.path",
    "data.eval_path",
    "data.label_file",
    "data.eval_label_file",
    "data.max_pixels",
    "data.num_workers",
    "data.prefetch",
    "data.max_unreadable_share",
    "model.remat",
    "optim.offload",
    "repa.teacher",
    "tokenizer",
)
OLDER = {"data.exif": "ignore", "data.background": "ignore", "loss.clip_weight": 0.0}  # what versions without them did
# Fields that a run may change when it goes on, on request. `optimizer`, `schedule` and `codebook_schedule` name parts
# of the optimizer's state, so that no checkpoint fits another one.
CHANGEABLE_SECTIONS = ("train", "optim")
CHANGEABLE_FIELDS = ("seed", "gan.start_step")
UNCHANGEABLE_FIELDS = ("optim.schedule", "optim.codebook_schedule", "optim.optimizer")
MAX_SHOWN = 5  # shards named in a message


class ConfigMismatch(ValueError):
    """The checkpoints were made with another config; the message names the fields that differ."""


class WeightsMismatch(ValueError):
    """The checkpoints were made with other frozen networks; the message names those that differ."""


class DataMismatch(ValueError):
    """The checkpoints were trained on other samples; the message names the shards that differ."""


def differences(saved: dict, config: dict, defaults: Mapping[str, Any] = MappingProxyType({})) -> dict[str, list]:
    """The fields in which two flat configs (`{"a.b": value}`) compute different steps: `{field: [before, now]}`.

    Args:
      saved, config: configs of the checkpoint and of this run.
      defaults: default values of fields, which replace fields missing in the config of an older checkpoint.
    """

    def matters(field):
        return field.split(".")[0] not in FREE_SECTIONS and field not in FREE_FIELDS

    before = {**defaults, **OLDER}
    saved = {field: value for field, value in before.items() if field in config} | saved
    fields = [field for field in sorted(saved.keys() | config.keys()) if matters(field)]
    return {field: [saved.get(field), config.get(field)] for field in fields if saved.get(field) != config.get(field)}


def check_config(
    saved: dict, config: dict, defaults: Mapping[str, Any] = MappingProxyType({}), *, allow_changes: bool = False
) -> None:
    """Raises ConfigMismatch where two flat configs (`{"a.b": value}`) differ in what a step computes.

    Args:
      saved: of the checkpoint.
      config: of the run.
      defaults: see `differences`.
      allow_changes: accepts differences in fields that a run may change when it goes on.
    """

    def changeable(field):
        listed = field.split(".")[0] in CHANGEABLE_SECTIONS or field in CHANGEABLE_FIELDS
        return listed and field not in UNCHANGEABLE_FIELDS

    differing = differences(saved, config, defaults)
    refused = [field for field in differing if not (allow_changes and changeable(field))]
    if not refused:
        return
    lines = "\n".join(f"  {f}: {differing[f][0]!r} in the checkpoint, {differing[f][1]!r} now" for f in refused)
    advice = "Set these fields back to resume, or use another workdir"
    if not allow_changes and all(map(changeable, refused)):
        advice = "Set these fields back to resume, go on with them by --resume_with_changes, or use another workdir"
    raise ConfigMismatch(f"the checkpoints in this workdir were made with another config:\n{lines}\n{advice}")


def check_weights(saved: dict, now: dict, saved_config: dict, config: dict) -> None:
    """Raises WeightsMismatch if networks of the same name have different weights.

    Args:
      saved, now: fingerprints of the checkpoint and of this run, by the network's name.
      saved_config, config: flat configs, for the paths in the message.
    """
    if names := [name for name in sorted(saved.keys() & now.keys()) if saved[name] != now[name]]:
        networks = "\n".join(f"  {name}: {saved[name]} in the checkpoint, {now[name]} now" for name in names)
        paths = [field for field in config if field == "tokenizer" or field.startswith("weights.")]
        moved = [
            f"  {f}: {saved_config.get(f)!r}, now {config[f]!r}" for f in paths if saved_config.get(f) != config[f]
        ]
        raise WeightsMismatch(
            f"the checkpoints in this workdir were made with other weights of these networks:\n{networks}\n"
            + ("\n".join(["the paths that differ:", *moved]) if moved else "the paths are the same: files were changed")
            + "\nGive the old files to resume, or use another workdir"
        )


def check_data(saved: dict, now: dict, path: str) -> None:
    """Raises DataMismatch if the samples differ from those of the checkpoint.

    Args:
      saved, now: `train.data.Data.version` of the checkpoint and of this run.
      path: `data.path`, for the message.
    """
    if saved["fingerprint"] == now["fingerprint"]:
        return
    before, after = saved["parts"], now["parts"]
    changes = [f"{name}: added ({after[name]})" for name in after if name not in before]
    changes += [f"{name}: removed ({before[name]})" for name in before if name not in after]
    changes += [
        f"{name}: {before[name]} in the checkpoint, {after[name]} now"
        for name in after
        if name in before and before[name] != after[name]
    ]
    more = [f"and {len(changes) - MAX_SHOWN} more"] if len(changes) > MAX_SHOWN else []
    lines = [*changes[:MAX_SHOWN], *more] or ["the files are the same, but not their order or their encoding"]
    raise DataMismatch(
        f"the samples of data.path={path!r} are not those that the checkpoints in this workdir were trained on:\n"
        + "".join(f"  {line}\n" for line in lines)
        + "Give the old samples to resume, or use another workdir"
    )
