"""Damaged checkpoints: never used, and never in the way of an older good one."""

import collections
import random
import shutil

import jax
import numpy as np
import pytest

from softvq_jax.parallel.sharding import abstract, shardings_for
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.loop import Run
from softvq_jax.train.tasks import TASKS
from tests.campaigns import tries
from tests.train.conftest import tiny


def flip_bit(path, rng, other):
    content = bytearray(path.read_bytes() or b"\0")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def zero_a_range(path, rng, other):
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((1, 64, 4096)))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def truncate(path, rng, other):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])


def empty(path, rng, other):
    path.write_bytes(b"")


def append(path, rng, other):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 1000)))


def random_bytes(path, rng, other):
    path.write_bytes(rng.randbytes(path.stat().st_size))


def delete(path, rng, other):
    path.unlink()


def delete_folder(path, rng, other):
    shutil.rmtree(path.parent)


def swap(path, rng, other):
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def make_a_folder(path, rng, other):
    path.unlink()
    path.mkdir()


DAMAGES = (
    flip_bit, flip_bit, zero_a_range, truncate, empty, append, random_bytes, delete, delete_folder, swap, make_a_folder,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("shared_programs")
def test_damaged_checkpoints(tmp_path, capsys):
    """Files of the newest one or two of three checkpoints of a real run; `CAMPAIGN_TRIES=200` damages more."""
    config = tiny()
    Run(config, tmp_path / "run", TASKS["tokenizer"]).train()
    saved = tmp_path / "run" / "checkpoints"
    again = Run(config, tmp_path / "run", TASKS["tokenizer"])
    rng, counts = random.Random(0), collections.Counter()
    with jax.set_mesh(again.mesh):
        shapes = jax.eval_shape(again.task.init, jax.random.key(config.seed), again.task.initial)
        shapes = abstract(shapes, shardings_for(shapes, again.mesh))
        steps = sorted(int(path.name) for path in saved.iterdir())
        good = {}
        for step in steps:
            alone = shutil.copytree(saved / str(step), tmp_path / f"alone{step}" / str(step)).parent
            good[step] = Checkpoints(alone, keep=1, keep_every_steps=0).restore(shapes)
        for number in range(tries(20)):
            folder = shutil.copytree(saved, tmp_path / str(number) / "checkpoints")
            damaged = steps[-rng.choice((1, 1, 2)) :]
            done = []
            for step in damaged:
                files = sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())
                path, other, damage = *rng.sample(files, 2), rng.choice(DAMAGES)
                done.append((damage.__name__, str(path.relative_to(folder))))
                damage(path, rng, other)
            try:
                checkpoints = Checkpoints(folder, keep=3, keep_every_steps=0)
                record, found = checkpoints.record(), checkpoints.restore(shapes)
                checkpoints.close()
            except Exception as error:
                counts["refused"] += 1
                print(f"refused: {done}: {type(error).__name__}: {error}")
                continue
            finally:
                shutil.rmtree(folder.parent)
            right = good[found.record["step"]]
            equal = jax.tree.map(np.array_equal, jax.device_get(found.state), jax.device_get(right.state))
            if not all(jax.tree.leaves(equal)) or found.record != right.record or record != good[record["step"]].record:
                counts["silent"] += 1
                print(f"silent: {done}")
            elif found.record["step"] == steps[-1]:
                counts["harmless"] += 1
            else:
                counts["older one used"] += 1
            assert found.record["step"] >= steps[-1 - len(damaged)]
    with capsys.disabled():
        print(f"\n{sum(counts.values())} damages: {dict(counts)}")
    assert not counts["silent"] and not counts["refused"]
