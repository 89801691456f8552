"""Two processes restore; one of them cannot read the newest checkpoint: `python -m tests.programs.disagreement FOLDER`."""

import pathlib
import sys

from tests.programs import join

join()

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.parallel.mesh import make_mesh
from softvq_jax.parallel.sharding import abstract, init_sharded, largest_axis, shardings_for
from softvq_jax.train.agreement import agreed, sum_over_processes
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.evaluator import gather_to_host
from softvq_jax.train.write_errors import WriteFailed

RULES = (("", largest_axis(min_size=1)),)
mesh, process = make_mesh(1, 1, 4), jax.process_index()


def state(step):
    return init_sharded(lambda: {"weights": jnp.arange(16.0) + step}, mesh, rules=RULES)


def folder():
    return Checkpoints(pathlib.Path(sys.argv[1]), keep=3, keep_every_steps=0)


with jax.set_mesh(mesh):
    written = folder()
    for step in (1, 2):
        written.save(state(step), {"step": step})
    written.close()

    checkpoints = folder()
    read = checkpoints._reader.restore

    def failing(path, **kwargs):
        if process == 1 and pathlib.Path(path).name == "2":
            raise OSError("stale file handle")
        return read(path, **kwargs)

    checkpoints._reader.restore = failing
    assert checkpoints.record()["step"] == 1
    shapes = jax.eval_shape(lambda: state(0))
    restored = checkpoints.restore(abstract(shapes, shardings_for(shapes, mesh, RULES)))
    assert restored.record["step"] == 1 and checkpoints.latest_step() == 1

    # Other operations of all processes around a checkpoint.
    whole = gather_to_host(restored.state, mesh, keep=process == 0)
    assert whole == {"weights": None} if process else np.array_equal(whole["weights"], np.arange(16.0) + 1)
    assert sum_over_processes(process + 1) == 3
    said = []
    for message in ("", "/disk/metrics.jsonl could not be written: é", "x" * 5000):
        try:
            with agreed():
                if process == 0 and message:
                    raise WriteFailed(message)
        except WriteFailed as error:
            said.append(str(error))
    assert said == ["/disk/metrics.jsonl could not be written: é", "x" * (2000 if process else 5000)]
    checkpoints.close()
