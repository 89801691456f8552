"""Runs `python -m softvq_jax.main`, and in process p appends the sample indices of every batch read for training
to `<workdir>/read.p`. `main` reads one batch ahead.
"""

import json
import pathlib
import sys

from softvq_jax import main
from softvq_jax.data import pipeline

workdir = pathlib.Path(next(flag for flag in sys.argv if flag.startswith("--workdir=")).split("=", 1)[1])
train_batches, read = pipeline.train_batches, pipeline.Batches.__next__


def recorded_train_batches(*args, **kwargs):
    import jax

    batches = train_batches(*args, **kwargs)
    batches.record = workdir / f"read.{jax.process_index()}"
    return batches


def recorded_next(self):
    batch = read(self)
    if hasattr(self, "record"):
        with self.record.open("a") as file:
            file.write(json.dumps(batch["index"].tolist()) + "\n")
    return batch


pipeline.train_batches, pipeline.Batches.__next__ = recorded_train_batches, recorded_next
main.run()
