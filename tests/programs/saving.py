"""Saves known states, metrics and an export, as the loop does: `python -m tests.programs.saving WORKDIR STEPS`."""

import pathlib
import sys

import jax
import numpy as np

from softvq_jax.storage import files
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.metrics import MetricsWriter
from softvq_jax.train.workdir import Workdir
from softvq_jax.weights.files import write_safetensors

workdir, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
folder = Workdir(workdir, "")
checkpoints = Checkpoints(workdir / "checkpoints", keep=2, keep_every_steps=0)
start = checkpoints.latest_step() or 0
writer = MetricsWriter(workdir, step=start, active=True)
print(f"start {start}", flush=True)
for step in range(start + 1, steps + 1):
    writer.scalars(step, {"loss": 1 / step, "images_per_second": 1.0})
    writer.pictures(step, "noise", [np.full((4, 8, 8, 3), step, np.uint8)])
    writer.sync()
    checkpoints.save(
        {"weights": jax.numpy.full((64, 64), step, jax.numpy.float32), "count": jax.numpy.int32(step)}, {"step": step}
    )
    checkpoints.wait()
    print(f"saved {step}", flush=True)  # from here on a power cut must not lose it
files.make_folder(workdir / "tokenizer")
write_safetensors(workdir / "tokenizer" / "model.safetensors", {"a": np.arange(1000.0)})
checkpoints.close()
folder.close()
