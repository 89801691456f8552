"""Takes five training steps of a small tokenizer on each given mesh: LPIPS, alignment, entropy, DINO discriminator.

    python -m tests.programs.gan_steps <folder> <data>,<fsdp> ...

For every mesh, writes `<folder>/<data>,<fsdp>.npz` with the logged losses `[5]` and the changes of everything in the state
except the optimizers' moments, and a `.json` file with the arrays that the compiled step gathers. "copying" in place of a
mesh is a program that gathers too much. With several processes, the first one writes.
"""

import json
import pathlib
import sys

from tests.programs import join

join()

import jax
import numpy as np

from softvq_jax.aot import hlo
from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.models.dino_trunk import DinoTrunk
from softvq_jax.models.functional import Functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.parallel.mesh import global_batch, make_mesh, process_rows, replicated
from softvq_jax.parallel.sharding import abstract, init_sharded, shardings_for
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.tokenizer_task import TokenizerTask
from softvq_jax.weights.pretrained import Pretrained

BATCH, SIZE, STEPS = 8, 48, 5
# Wide enough that every kernel of a block is sharded. The depths are such that no two tensors happen to have equal sizes.
VIT = dict(width=256, depth=7, num_heads=4, patch_size=12, layer_scale=0.1)
TEACHER = ViTConfig(**VIT)
TRUNK = ViTConfig(width=256, depth=4, num_heads=4, patch_size=12, activation="gelu_tanh", layer_scale=None)


def make_config():
    config = tokenizer_config("S", "S")
    config.model.encoder.update(VIT)
    config.model.decoder.update(VIT)
    config.model.update(image_size=SIZE, num_latent_tokens=8, latent_dim=8, codebook_size=64, num_codebooks=2)
    config.model.dtype = "float32"
    config.weights.encoder = ""
    config.loss.perceptual_warmup_steps = 2
    config.alignment.hidden = 64
    config.gan.update(discriminator="dino", start_step=2, lecam_decay=0.9)
    # With a large eps Adam's step is proportional to the gradient. With the usual one, entries with a gradient of rounding
    # errors alone would make full steps, in directions that differ between meshes.
    config.optim.update(learning_rate=1e-3 * 256 / BATCH, eps=1e-2, warmup_epochs=0.0, ema_decay=0.9)
    config.train.update(batch_size=BATCH, num_steps=STEPS)
    return config


def make_task(config) -> TokenizerTask:
    def weights(make, seed):
        return jax.device_get(jax.jit(lambda key: Functional(make).init(key)[0])(jax.random.key(seed)))

    frozen = {
        "teacher": weights(lambda rngs: ViT(TEACHER, SIZE, rngs=rngs), 1),
        "lpips": weights(lambda rngs: LPIPS(rngs=rngs), 2),
        "trunk": weights(lambda rngs: DinoTrunk(TRUNK, SIZE, rngs=rngs), 3),
    }
    pretrained = Pretrained(frozen, {"teacher": (TEACHER, SIZE), "lpips": (), "trunk": (TRUNK, SIZE)})
    return TokenizerTask(config, pretrained, num_steps=STEPS, steps_per_epoch=STEPS)


def train(task, axes: str, folder: pathlib.Path) -> None:
    mesh = mesh_of(axes)
    with jax.set_mesh(mesh):
        state, frozen, key, logs = *start(task, mesh), jax.random.key(1), []
        fresh = whole(watched(state), mesh)
        compiled = compile_step(task.step, state, frozen, mesh)
        for i in range(STEPS):
            state, metrics = compiled(state, frozen, batch(i, mesh), key)
            logs.append(jax.device_get(metrics))
        moved = jax.tree.map(np.subtract, whole(watched(state), mesh), fresh)
    if jax.process_index() > 0:
        return
    arrays = {f"log {name}": np.array([log[name] for log in logs]) for name in logs[0]}
    arrays |= {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(moved)}
    np.savez(folder / f"{axes}.npz", **arrays)
    report = {"gathered": gathered(compiled.as_text()), **sizes(state, frozen)}
    (folder / f"{axes}.json").write_text(json.dumps(report))


def watched(state) -> dict:
    """Returns the parts of a state that are compared."""
    discriminator = state.discriminator
    return {
        "generator": state.tokenizer.params,
        "discriminator": discriminator.params,
        "buffers": discriminator.buffers,
        "ema": state.ema,
        "lecam": state.lecam,
        "code_age": state.code_age,
    }


def whole(tree, mesh):
    return jax.device_get(jax.device_put(tree, replicated(mesh)))


def compile_copying(task, folder: pathlib.Path) -> None:
    """Gathers all parameters at once, as a wrong step would."""
    mesh = mesh_of("1,8")

    def gather(params):
        return jax.tree.map(lambda leaf: 2 * leaf, jax.lax.with_sharding_constraint(params, replicated(mesh)))

    with jax.set_mesh(mesh):
        state, frozen = (
            abstract(tree, shardings_for(tree, mesh))
            for tree in (jax.eval_shape(task.init, jax.random.key(0), task.initial), task.frozen)
        )
        program = jax.jit(gather).lower(state.tokenizer.params).compile()
        report = {"gathered": gathered(program.as_text()), **sizes(state, frozen)}
    (folder / "copying.json").write_text(json.dumps(report))


def mesh_of(axes: str) -> jax.sharding.Mesh:
    data, fsdp = map(int, axes.split(","))
    return make_mesh(1, data, fsdp, devices=jax.devices()[: data * fsdp])


def start(task, mesh):
    return init_sharded(task.init, mesh, jax.random.key(0), task.initial), put(task.frozen, mesh)


def compile_step(step, state, frozen, mesh):
    return jit_step(step, state, frozen, mesh).lower(state, frozen, batch(0, mesh), jax.random.key(1)).compile()


def batch(step: int, mesh) -> dict[str, jax.Array]:
    return global_batch({"image": images(step)[process_rows(BATCH, mesh)]}, mesh)


def images(step: int) -> np.ndarray:
    """Returns smooth random images, uint8."""
    coarse = np.random.default_rng(step).integers(0, 256, (BATCH, 4, 4, 3), np.uint8)
    return np.asarray(jax.image.resize(coarse.astype(np.float32), (BATCH, SIZE, SIZE, 3), "linear")).astype(np.uint8)


def gathered(program: str) -> list[tuple[float, bool]]:
    """Returns the bytes of every array that an all-gather of a program makes, and whether it is inside a loop."""
    return [
        (array.bytes, execution.times > 1)
        for execution in hlo.executions(hlo.parse(program))
        if execution.instruction.opcode in ("all-gather", "all-gather-start")
        for array in execution.instruction.arrays
    ]


def sizes(state, frozen) -> dict[str, list[int]]:
    """Returns the bytes of the tokenizer's sharded block tensors, as stacks and of one block, and of what loops may gather:
    tensors of one block of any network, and all heads of the discriminator for each view."""

    def divided(tree, part="blocks"):
        paths = jax.tree.leaves_with_path(tree)
        named = [leaf for path, leaf in paths if part in jax.tree_util.keystr(path)]
        return [leaf for leaf in named if not leaf.sharding.is_fully_replicated]

    def block(leaf):
        return nbytes(leaf) // leaf.shape[0]

    trained, heads = divided(state.tokenizer.params), divided(state.discriminator.params, "heads")
    return {
        "stacks": [nbytes(leaf) for leaf in trained],
        "tensors": [block(leaf) for leaf in trained],
        "in_loops": [block(leaf) for leaf in divided((state.tokenizer.params, frozen))]
        + [nbytes(leaf) for leaf in heads],
    }


def nbytes(leaf) -> int:
    return leaf.size * leaf.dtype.itemsize


if __name__ == "__main__":
    task, folder = make_task(make_config()), pathlib.Path(sys.argv[1])
    for name in sys.argv[2:]:
        if name == "copying":
            compile_copying(task, folder)
        else:
            train(task, name, folder)
