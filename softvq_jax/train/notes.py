"""What the log and the errors of a run say about its settings: in words, with the field to change and a value for it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config import tokenizer as configs
from softvq_jax.plurals import counted
from softvq_jax.train import optim

MAX_START_SHARE = 0.1  # of the initial weights in the final average, without a warning
MIN_LATENT_SPREAD = 1e-3
MAX_NAMES = 8  # of classes in a line of the log


def classes(names: Sequence[str]) -> str | None:
    """Returns how many classes the data have, with the names of the first; None for data without classes."""
    if not any(names):
        return None
    more = f", ... ({len(names) - MAX_NAMES:,} more)" if len(names) > MAX_NAMES else ""
    return f"{counted(len(names), 'class', 'classes')}: {', '.join(names[:MAX_NAMES])}{more}"


def learning_rate(config: ConfigDict, num_samples: int) -> str:
    """Returns the learning rate that a run uses, and how it follows from the config.

    Args:
      config: of the run.
      num_samples: per epoch.
    """
    section, batch = config.optim, config.train.batch_size
    schedule, num_steps, warmup = _schedule(config, num_samples)
    then = f"then constant to step {num_steps}"
    if section.schedule == "cosine":
        then = f"then a cosine to {float(schedule(num_steps)):.3g} at step {num_steps}"
    if warmup > num_steps:
        then = f"the run ends before, at step {num_steps}, with {float(schedule(num_steps - 1)):.3g}"
    text = (
        f"learning rate: {section.learning_rate * batch / 256:.3g} = optim.learning_rate {section.learning_rate:g} x "
        f"batch {batch} / 256, after {counted(warmup, 'step')} of warm-up; {then}"
    )
    if section.optimizer == "muon":
        text += (
            f". Kernels follow the same schedule with Muon's rate, {section.muon_learning_rate * batch / 256:.3g} = "
            f"optim.muon_learning_rate {section.muon_learning_rate:g} x batch {batch} / 256"
        )
    return text


def short_run(config: ConfigDict, num_samples: int) -> str | None:
    """Returns a warning if a run ends before its learning rate has reached the peak, else None.

    Args:
      config: of the run.
      num_samples: per epoch.
    """
    _, num_steps, warmup = _schedule(config, num_samples)
    if warmup <= num_steps:
        return None
    return (
        f"optim.warmup_epochs={config.optim.warmup_epochs:g} are {warmup} steps of warm-up, but the run ends at step "
        f"{num_steps}, before the learning rate has reached its peak: set --config.optim.warmup_epochs to a lower value"
    )


def average(section: ConfigDict, num_steps: int) -> str | None:
    """Returns a warning if the moving average of a run's parameters cannot leave its initial weights, else None.

    Args:
      section: `config.optim`.
      num_steps: of the whole run.
    """
    share = 0.0 if section.ema_warmup else section.ema_decay**num_steps
    if share <= MAX_START_SHARE:
        return None
    decay = max(0.0, round(1 - 5 / num_steps, 4))
    return (
        f"optim.ema_decay={section.ema_decay:g}: after {num_steps} steps {share:.0%} of the averaged weights, which are "
        "evaluated and exported, are still the initial ones. Set --config.optim.ema_warmup=True or "
        f"--config.optim.ema_decay={decay:g}; `softvq export --raw` exports the weights without the average"
    )


def collapse(spread: float, kind: str = "softvq") -> str | None:
    """Returns a warning if a tokenizer gives all images nearly the same latents, else None.

    Args:
      spread: `eval_latent_spread`, the variance between images as a share of the latents' mean square.
      kind: `config.model.kind`; only a SoftVQ-VAE has other ways to start.
    """
    if spread >= MIN_LATENT_SPREAD:
        return None
    starts = "a trained model by --config.init_from=..."
    if kind == "softvq":
        starts = (
            "--config.model.local_init=True for a small network from scratch, pretrained --config.weights.encoder=..."
        )
    return (
        f"the held-out images all have nearly the same latents (eval_latent_spread {spread:.2g}; normal is above "
        f"{MIN_LATENT_SPREAD:g}): the tokenizer does not encode them, and reconstructions stay at the mean image. Try "
        f"{starts}, or a higher --config.optim.learning_rate (see the rate in use at the start of the log)"
    )


def changes(
    fields: Mapping[str, Sequence[Any]], saved: Mapping[str, Any], config: ConfigDict, step: int, num_samples: int
) -> list[str]:
    """Returns what follows from changed fields of a run that goes on, in lines.

    Args:
      fields: the value before and the value now, by field.
      saved: the config of the checkpoint, by dotted fields.
      config: of the run now.
      step: of the checkpoint.
      num_samples: per epoch.
    """
    before = ConfigDict({"train": {}, "optim": {}})
    for name, value in saved.items():
        section, _, field = name.partition(".")
        if section in ("train", "optim"):
            before[section][field] = value
    lines = [f"{field}: {old!r}, now {new!r}" for field, (old, new) in fields.items()]
    (old, old_end, _), (new, end, _) = _schedule(before, num_samples), _schedule(config, num_samples)
    if end != old_end:
        lines.append(f"the run ends at step {end}, before at {old_end}")
    if (now := float(new(step))) != (then := float(old(step))):
        lines.append(f"the learning rate of step {step + 1} is {now:.3g}, with the old settings {then:.3g}")
    if "seed" in fields or "train.batch_size" in fields:
        lines.append("samples come in another order or in other batches from here on; some may repeat in this epoch")
    return lines


def after_non_finite(step: int, saved: Sequence[int], config: ConfigDict, workdir: pathlib.Path) -> str:
    """Returns how to go on after a loss that is not finite.

    Args:
      step: of that loss.
      saved: steps of the complete checkpoints, in order.
      config: of the run.
      workdir: of the run.
    """
    names = ["learning_rate"] + ["muon_learning_rate"] * (config.optim.optimizer == "muon")
    rate = " ".join(f"--config.optim.{name}={config.optim[name] / 2:g}" for name in names)
    if not saved:
        return f"There is no checkpoint yet: start again with a lower rate, the same command with {rate}"
    advice = (
        f"The newest checkpoint is of step {saved[-1]}. Go on from it with a lower rate and another order of samples: "
        f"the same command with --resume_with_changes {rate} --config.seed={config.seed + 1}"
    )
    if step > saved[-1] + 1:
        return advice
    before = f"step {saved[-2]}" if len(saved) > 1 else "the start"
    newest = workdir / "checkpoints" / str(saved[-1])
    return f"{advice}. If it stops again at once, first move {newest} away, to go on from {before}"


def _schedule(config, num_samples):
    """The learning rate by step, the number of steps and of warm-up steps."""
    num_steps, per_epoch = configs.steps(config, num_samples)
    sizes = dict(batch_size=config.train.batch_size, steps_per_epoch=per_epoch, num_steps=num_steps)
    schedule = optim.learning_rate(config.optim, config.optim.schedule, **sizes)
    return schedule, num_steps, optim.warmup_steps(config.optim, per_epoch)
