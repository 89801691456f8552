"""The real training step, compiled for TPU slices; and the closed form of its traffic, against a compiled program.

Needs the TPU compiler (`pip install -e '.[aot]'`); a whole step of L-64 takes it minutes.
"""

import pytest

pytest.importorskip("libtpu")

import jax
import jax.numpy as jnp

from configs import l64
from softvq_jax.aot import hlo, scaling
from softvq_jax.aot.collectives import by_kind, collectives
from softvq_jax.aot.compile import compile_for
from softvq_jax.aot.topology import get_topology
from softvq_jax.parallel import mesh, sharding
from softvq_jax.tools.aot_compile import measure
from tests.programs import vit_steps


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fsdp", "images"), [("v5e:16x16", 16, 4096), ("v4:2x2x2", 8, 128)])
def test_the_step_of_l64_compiles_and_fits(name, fsdp, images):
    config = l64.get_config()
    config.mesh.fsdp, config.model.remat, config.train.batch_size = fsdp, "dots", images
    report = measure(config, get_topology(name))
    assert report.memory.fits
    assert report.chips == len(get_topology(name).devices)
    # Weights travel, not tokens: 16 images a chip keep the network busy for less time than the matrix units.
    assert report.roofline.ici < report.roofline.compute


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp"), [(16, 1), (4, 4), (1, 16)])
def test_a_compiled_step_sends_what_the_closed_form_says(data, fsdp):
    slice_of_16 = get_topology("v5e:4x4")
    m = mesh.make_mesh(1, data, fsdp, devices=slice_of_16.devices)
    state = jax.eval_shape(vit_steps.init, jax.eval_shape(lambda: jax.random.key(0)))
    placed = sharding.shardings_for(state, m, vit_steps.RULES)
    rows = dict(dtype=jnp.float32, sharding=mesh.batch_sharding(m))
    images = jax.ShapeDtypeStruct((32, vit_steps.SIZE, vit_steps.SIZE, 3), **rows)
    target = jax.ShapeDtypeStruct((32, vit_steps.CONFIG.width), **rows)
    step = jax.jit(vit_steps.step, out_shardings=(placed, mesh.replicated(m)))
    program = compile_for(step, (sharding.abstract(state, placed), images, target), m).program
    sent = sum(total.sent for total in by_kind(collectives(hlo.parse(program.as_text()))).values())
    weights = scaling.count_weights(state["params"], placed["params"], width=4)
    assert sent == pytest.approx(scaling.bytes_sent(weights, scaling.Mesh(1, data, fsdp)).inside_slice, rel=0.1)
