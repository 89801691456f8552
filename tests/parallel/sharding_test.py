"""Rules from paths to shardings."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.parallel import mesh, sharding


def _mesh(fsdp: int) -> AbstractMesh:
    return AbstractMesh((1, 2, fsdp), mesh.AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("shape", "fsdp", "first", "expected"),
    [
        ((512, 1024), 8, 0, (None, "fsdp")),
        ((1024, 512), 8, 0, ("fsdp",)),
        ((1000, 511), 8, 0, ("fsdp",)),
        ((1001, 512), 8, 0, (None, "fsdp")),  # The larger axis does not divide.
        ((1001, 511), 8, 0, ()),  # Neither does.
        ((255, 256), 8, 0, ()),  # Too small.
        ((1024, 512), 1, 0, ()),
        ((4096, 256, 512), 8, 1, (None, None, "fsdp")),  # Stacked: the first axis is scanned.
        ((4096, 64), 8, 1, ()),  # 64 numbers a block.
        ((), 8, 0, ()),
        ((0, 8), 8, 0, ()),
    ],
)
def test_largest_axis(shape, fsdp, first, expected):
    assert sharding.largest_axis(first)(shape, fsdp) == PartitionSpec(*expected)


def test_first_matching_rule_wins():
    tree = {"a": {"b": jnp.ones((512, 512))}, "c": jnp.ones((512, 512))}
    rules = ((r"^a/b$", sharding.replicate), (r"a/", sharding.largest_axis()), (r"", sharding.largest_axis()))
    placed = sharding.shardings_for(tree, _mesh(4), rules)
    assert placed["a"]["b"].spec == PartitionSpec()
    assert placed["c"].spec == PartitionSpec("fsdp")
    with pytest.raises(ValueError, match="no sharding rule matches 'c'"):
        sharding.shardings_for(tree, _mesh(4), rules[:2])


def test_every_large_tensor_of_a_vit_and_its_optimizer_is_sharded():
    config = ViTConfig(width=384, depth=12, num_heads=6)

    def init():
        params = nnx.to_pure_dict(nnx.state(ViT(config, 256, rngs=nnx.Rngs(0))))
        return {"params": params, "opt": optax.adamw(1e-4).init(params), "step": jnp.zeros((), jnp.int32)}

    shapes = jax.eval_shape(init)
    placed = sharding.shardings_for(shapes, _mesh(8))
    for (path, shape), spec in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(placed), strict=True):
        local = spec.shard_shape(shape.shape)
        if "blocks" in jax.tree_util.keystr(path):
            assert local[0] == config.depth
        if shape.size >= 12 * 2**16:
            assert 8 * jax.ShapeDtypeStruct(local, shape.dtype).size == shape.size
    assert placed["opt"][0].mu == placed["opt"][0].nu == placed["params"]
