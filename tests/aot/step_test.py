"""The real training step, compiled for TPU slices; and the closed form of its traffic, against a compiled program.

Needs the TPU compiler (`pip install -e '.[aot]'`), which plans a step of L-64 in about 20 s.
"""

import dataclasses
from functools import partial

import pytest

pytest.importorskip("libtpu")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from configs import l64
from softvq_jax.aot import hlo, scaling
from softvq_jax.aot.collectives import by_kind, collectives
from softvq_jax.aot.compile import OutOfMemory, compile_for, plan_for
from softvq_jax.aot.topology import chips_of, get_topology
from softvq_jax.aot.traffic import hbm_traffic
from softvq_jax.parallel import mesh, sharding
from softvq_jax.tools.aot_compile import measure
from softvq_jax.train.compile import compiler_options, jit_step
from softvq_jax.train.offload import state_shardings
from tests.programs import vit_steps

OPTIMIZED = True  # see conftest.py
MINUTES = pytest.mark.heavy  # to compile

# The compiler all-reduces small weights, because a shard of them is smaller than a tile.
WIDE = dataclasses.replace(vit_steps.CONFIG, width=1024, num_heads=16)
IMAGES = (
    2048  # More tokens per chip than rows of a kernel; otherwise the compiler gathers tokens, which would be smaller.
)


@pytest.fixture(autouse=True)
def uncached():
    """Disables the compilation cache, which cannot load programs for other devices."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fsdp", "images"),
    [pytest.param("v5e:16x16", 16, 4096, marks=MINUTES), pytest.param("v4:2x2x2", 8, 128, marks=MINUTES)],
)
def test_the_step_of_l64_compiles_and_fits(name, fsdp, images):
    config = l64.get_config()
    config.mesh.fsdp, config.train.batch_size = fsdp, images
    report = measure(config, name)
    assert report.memory.fits
    assert report.chips == chips_of(name)
    # Weights are gathered, not tokens: with 16 images per chip, communication takes less time than matmuls.
    assert report.roofline.ici < report.roofline.compute


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "fsdp"), [(16, 1), pytest.param(4, 4, marks=MINUTES), pytest.param(1, 16, marks=MINUTES)]
)
def test_a_compiled_step_sends_the_bytes_of_the_closed_form(data, fsdp):
    slice_of_16 = get_topology("v5e:4x4")
    m = mesh.make_mesh(1, data, fsdp, devices=slice_of_16.devices)
    state = jax.eval_shape(partial(vit_steps.init, config=WIDE), jax.eval_shape(lambda: jax.random.key(0)))
    placed = sharding.shardings_for(state, m, vit_steps.RULES)
    rows = dict(dtype=jnp.float32, sharding=mesh.batch_sharding(m))
    images = jax.ShapeDtypeStruct((IMAGES, vit_steps.SIZE, vit_steps.SIZE, 3), **rows)
    target = jax.ShapeDtypeStruct((IMAGES, WIDE.width), **rows)
    step = jax.jit(
        partial(vit_steps.step, config=WIDE, dtype=jnp.bfloat16),
        out_shardings=(placed, mesh.replicated(m)),
        compiler_options=compiler_options(m),
    )
    program = plan_for(step, (sharding.abstract(state, placed), images, target), m)
    sent = sum(total.sent for total in by_kind(collectives(hlo.parse(program.text))).values())
    weights = scaling.count_weights(state["params"], placed["params"], width=2)
    expected = scaling.bytes_sent(weights, scaling.Mesh(1, data, fsdp))
    # With one axis the compiler all-reduces full gradients; with two, each chip reduces only its shard.
    whole = expected.scatter if (data, fsdp) == (1, 16) else 0.0
    assert sent == pytest.approx(expected.inside_slice + whole, rel=0.1)


def small_step(images: int):
    """A step of six layers on four chips: the jitted function, its arguments as shapes, the mesh."""
    m = mesh.make_mesh(1, 2, 2, devices=get_topology("v5e:2x2").devices)
    rows = jax.ShapeDtypeStruct((images, 1024), jnp.float32, sharding=mesh.batch_sharding(m))
    kernels = jax.ShapeDtypeStruct((6, 1024, 1024), jnp.float32, sharding=NamedSharding(m, PartitionSpec(None, "fsdp")))

    def loss(kernels, x):
        return jnp.sum(jax.lax.scan(lambda x, kernel: (jax.nn.relu(x @ kernel), None), x, kernels)[0] ** 2)

    step = jax.jit(lambda kernels, x: kernels - jax.grad(loss)(kernels, x), donate_argnums=0)
    return step, (kernels, rows), m


@pytest.mark.slow
def test_the_plan_equals_the_program_except_for_machine_code():
    plan, whole = (compiler(*small_step(2**16)) for compiler in (plan_for, compile_for))
    assert (plan.arguments, plan.flops) == (whole.arguments, whole.flops)
    assert plan.temporaries > 2**28
    assert 0 < whole.temporaries - plan.temporaries < 2**23
    programs = [hlo.parse(compiled.text) for compiled in (plan, whole)]
    (sent, moved), again = ((by_kind(collectives(program)), hbm_traffic(program)) for program in programs)
    assert sent
    assert (sent, moved) == again


@pytest.mark.slow
def test_moments_and_averages_in_host_memory_are_not_in_the_chips():
    m = mesh.make_mesh(1, 2, 2, devices=get_topology("v5e:2x2").devices)
    kernel = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    state = {"params": {"kernel": kernel}, "opt": {"mu": {"kernel": kernel}}, "ema": {"kernel": kernel}}

    def step(state, frozen, batch, key):
        grads = jax.grad(lambda params: jnp.sum(jax.nn.relu(batch @ params["kernel"])))(state["params"])
        mu = jax.tree.map(lambda old, grad: 0.9 * old + grad, state["opt"]["mu"], grads)
        params = jax.tree.map(lambda old, update: old - 0.1 * update, state["params"], mu)
        return {"params": params, "opt": {"mu": mu}, "ema": jax.tree.map(jnp.add, state["ema"], params)}, {}

    def arguments(offload):
        placed = sharding.abstract(state, state_shardings(state, m, offload))
        rows = jax.ShapeDtypeStruct((64, 1024), jnp.float32, sharding=mesh.batch_sharding(m))
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=mesh.replicated(m))
        return plan_for(jit_step(step, state, {}, m, offload=offload), (placed, {}, rows, key), m).arguments

    assert arguments(False) - arguments(True) == 2 * 4 * 1024**2 // 2


@pytest.mark.parametrize("compiler", [plan_for, compile_for])
def test_a_program_too_large_for_the_chip_is_refused_with_its_size(compiler):
    with pytest.raises(OutOfMemory, match=r"needs .* GiB of main memory a chip, which has 15\.75 GiB") as refusal:
        compiler(*small_step(2**23))
    assert refusal.value.needed > refusal.value.available
