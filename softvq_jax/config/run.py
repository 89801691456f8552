"""The fields shared by all tasks: length of the run, devices, checkpoints and logs."""

from softvq_jax.config.data import DATA
from softvq_jax.config.fields import BOOLEAN, STEPS, Allowed, Field, Schema, integer, number, text

WRITERS = ("tensorboard", "wandb")


def writer_names(value: str) -> list[str]:
    """Returns the names in `config.log.writers`."""
    return [name.strip() for name in value.split(",") if name.strip()]


MESH_AXIS = Allowed("-1 or an integer of at least 1", lambda x: x == -1 or integer(1).check(x))
WRITER_NAMES = Allowed(
    f"names of {', '.join(WRITERS)}, separated by commas",
    lambda x: isinstance(x, str) and set(writer_names(x)) <= set(WRITERS),
)

RUN: Schema = {
    "train": {
        "batch_size": Field(256, "Examples of each step, over all devices.", integer(1), "examples"),
        "num_epochs": Field(50.0, "Length of the run, unless `num_steps` is set.", number(above=0), "epochs"),
        "num_steps": Field(0, "Length of the run; 0 uses `num_epochs`.", STEPS, "steps"),
    },
    "data": DATA,
    "mesh": {
        "slices": Field(-1, "TPU slices, connected by the data-center network; -1: all.", MESH_AXIS, "slices"),
        "data": Field(-1, "Devices that shard only the batch; -1: all remaining devices.", MESH_AXIS, "devices"),
        "fsdp": Field(
            1, "Devices that shard the batch and the parameters; -1: all remaining devices.", MESH_AXIS, "devices"
        ),
    },
    "checkpoint": {
        "every_steps": Field(1000, "Steps between checkpoints; 0: only at the end and at preemption.", STEPS, "steps"),
        "keep": Field(3, "Number of newest checkpoints that are kept.", integer(1), "checkpoints"),
        "keep_every_steps": Field(0, "Steps between checkpoints that are never deleted; 0: none.", STEPS, "steps"),
        "best_metric": Field(
            "", 'Held-out metric, such as "eval_psnr" or "eval_rfid"; its best step is kept in `best/`.', text()
        ),
        "elastic": Field(
            True,
            "Whether a run that resumes on fewer devices accumulates gradients, so that a device computes no more images "
            "at a time than at the start of the run.",
            BOOLEAN,
        ),
        "fallback": Field(
            "",
            "A folder on another disk, for the last state of a run whose workdir cannot be written; empty: none.",
            text(),
        ),
    },
    "log": {
        "every_steps": Field(50, "Steps between lines of metrics; 0: only at evaluations.", STEPS, "steps"),
        "writers": Field(
            "",
            'Where metrics and pictures go besides `metrics.jsonl`: "tensorboard", "wandb" (extras of these names), or '
            "both, separated by commas.",
            WRITER_NAMES,
        ),
        "wandb_project": Field("softvq-jax", "Project of Weights & Biases.", text(empty=False)),
    },
}
