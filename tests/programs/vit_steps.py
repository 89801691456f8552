"""Takes five optimizer steps of a small ViT on each given mesh; process 0 prints losses and checksums as JSON.

python -m tests.programs.vit_steps <slices>,<data>,<fsdp> ...
"""

import json
import sys

from tests.programs import join

join()

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.parallel import distributed, mesh, sharding

BATCH, SIZE = 16, 32
CONFIG = ViTConfig(width=64, depth=2, num_heads=2, patch_size=8)
RULES = ((r"(^|/)blocks/", sharding.largest_axis(first=1, min_size=256)), ("", sharding.largest_axis(min_size=256)))
OPTIMIZER = optax.adam(1e-3)


def init(key, config=CONFIG):
    params = nnx.to_pure_dict(nnx.state(ViT(config, SIZE, rngs=nnx.Rngs(key))))
    return {"params": params, "opt": OPTIMIZER.init(params)}


def step(state, images, target, config=CONFIG, dtype=None):
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: ViT(config, SIZE, dtype=dtype, rngs=nnx.Rngs(0))))

    def loss(params):
        tokens = mesh.constrain_batch(nnx.merge(graphdef, params)(mesh.constrain_batch(images)))
        return jnp.mean((tokens.mean(1) - target) ** 2)

    value, grads = jax.value_and_grad(loss)(state["params"])
    updates, opt = OPTIMIZER.update(grads, state["opt"])
    return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, value


def train(m: jax.sharding.Mesh) -> dict:
    rows = mesh.process_rows(BATCH, m)
    images = [np.random.default_rng(int(row)).standard_normal((SIZE, SIZE, 3)).astype(np.float32) for row in rows]
    target = [np.full(CONFIG.width, np.cos(row), np.float32) for row in rows]
    images, target = mesh.global_batch((np.stack(images), np.stack(target)), m)
    with jax.set_mesh(m):
        state = sharding.init_sharded(init, m, jax.random.key(0), rules=RULES)
        shardings = jax.tree.map(lambda x: x.sharding, state)
        compiled = jax.jit(step, out_shardings=(shardings, mesh.replicated(m)), donate_argnums=0)
        losses = []
        for _ in range(5):
            state, loss = compiled(state, images, target)
            losses.append(float(loss))
        checksum = jax.jit(optax.global_norm, out_shardings=mesh.replicated(m))(state["params"])
    kernel = state["params"]["transformer"]["blocks"]["mlp"]["fc1"]["kernel"]
    moment = state["opt"][0].mu["transformer"]["blocks"]["mlp"]["fc1"]["kernel"]
    return {
        "losses": losses,
        "checksum": float(checksum),
        "shard": kernel.addressable_shards[0].data.shape,
        "moment_shard": moment.addressable_shards[0].data.shape,
        "processes": jax.process_count(),
    }


def main() -> None:
    reports = [train(mesh.make_mesh(*map(int, axes.split(",")))) for axes in sys.argv[1:]]
    if distributed.is_main_process():
        print(json.dumps(reports))


if __name__ == "__main__":
    main()
