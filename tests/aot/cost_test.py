"""Arithmetic, closed forms and roofline, against numbers computed by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from softvq_jax.aot import hlo
from softvq_jax.aot.chips import CHIPS
from softvq_jax.aot.flops import matmul_flops
from softvq_jax.aot.roofline import Roofline, group_bandwidth
from softvq_jax.aot.scaling import Mesh, Weights, bytes_sent, least_images_per_chip, network_seconds
from softvq_jax.aot.topology import get_topology, parse_name
from softvq_jax.aot.traffic import hbm_traffic
from softvq_jax.models.attention import attention
from softvq_jax.parallel.mesh import AXES

OPTIMIZED = True  # see conftest.py


def _flops(function, *shapes):
    return matmul_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_flops_of_products_scans_and_gradients():
    assert _flops(jnp.matmul, (4, 8), (8, 16)) == 2 * 4 * 8 * 16
    scanned = lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]  # noqa: E731
    assert _flops(scanned, (4, 8), (5, 8, 8)) == 5 * 2 * 4 * 8 * 8
    # Backward: one product for the input, one for the weights.
    assert _flops(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2), argnums=(0, 1)), (8, 16), (4, 8)) == 3 * 2 * 4 * 8 * 16


def test_flops_of_a_convolution():
    same = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert _flops(same, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


# Seven blocks. An iteration of the loop reads one: directly, through a copy in another layout, or through padding.
FUSIONS = """HloModule step

%copied (blocks.1: bf16[7,64,64]) -> bf16[7,64,64] {
  %blocks.1 = bf16[7,64,64]{2,1,0} parameter(0)
  ROOT %laid = bf16[7,64,64]{1,2,0} copy(%blocks.1)
}

%sliced (blocks.2: bf16[7,64,64], i: s32[], zero: s32[], low: bf16[]) -> f32[64,64] {
  %blocks.2 = bf16[7,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] parameter(2)
  %low = bf16[] parameter(3)
  TAKEN
  %one = bf16[1,64,64]{2,1,0} dynamic-slice(%taken, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  %wide = f32[1,64,64]{2,1,0} convert(%one)
  ROOT %flat = f32[64,64]{1,0} bitcast(%wide)
}

ENTRY %main (blocks: bf16[7,64,64], index: s32[], none: s32[], bottom: bf16[]) -> f32[64,64] {
  %blocks = bf16[7,64,64]{2,1,0} parameter(0)
  %index = s32[]{:S(6)} parameter(1)
  %none = s32[]{:S(6)} parameter(2)
  %bottom = bf16[]{:S(6)} parameter(3)
  ROOT %block = f32[64,64]{1,0} fusion(%blocks, %index, %none, %bottom), kind=kLoop, calls=%sliced
}
"""


@pytest.mark.parametrize(
    ("taken", "blocks"),
    [
        ("%taken = bf16[7,64,64]{2,1,0} bitcast(%blocks.2)", 1),
        ("%taken = bf16[7,64,64]{1,2,0} fusion(%blocks.2), kind=kLoop, calls=%copied", 1),
        ("%taken = bf16[14,64,64]{2,1,0} pad(%blocks.2, %low), padding=0_7x0_0x0_0", 1),
        ("%taken = bf16[7,64,64]{2,1,0} reverse(%blocks.2), dimensions={0}", 7),  # not followed: all of it
    ],
)
def test_a_fusion_reads_only_the_used_part_of_its_operand(taken, blocks):
    read, written = blocks * 64 * 64 * 2, 64 * 64 * 4
    assert hbm_traffic(hlo.parse(FUSIONS.replace("TAKEN", taken))) == read + written


def test_bytes_sent_in_closed_form():
    weights = Weights(sharded=1000, replicated=80, width=2)
    # Data parallel only: one all-reduce of all gradients.
    assert sum(bytes_sent(weights, Mesh(1, 8, 1))) == pytest.approx(2 * 2 * 1080 * 7 / 8)
    sent = bytes_sent(weights, Mesh(1, 4, 2))
    assert sent.gather == pytest.approx(2 * 2 * 1000 / 2)
    assert sent.scatter == pytest.approx(2 * 1000 / 2)
    assert sent.reduce == pytest.approx(2 * 2 * 500 * 3 / 4 + 2 * 2 * 80 * 7 / 8)
    assert sent.between_slices == 0
    assert bytes_sent(weights, Mesh(2, 2, 2)).between_slices == pytest.approx(2 * 2 * (500 + 20) / 2)


def test_network_and_arithmetic_take_equal_time_at_the_least_batch():
    chip, weights, mesh = CHIPS["v5e"], Weights(3e8), Mesh(1, 16, 16)
    images = least_images_per_chip(weights, mesh, chip, flops_per_image=1e12)
    assert images * 1e12 / chip.matmul_flops == pytest.approx(network_seconds(weights, mesh, chip))


def test_links_of_a_group():
    chip, one = CHIPS["v5e"], CHIPS["v5e"].link_bandwidth
    column = [(0, y, 0) for y in range(16)]
    assert group_bandwidth(chip, (16, 16), column) == 2 * one
    assert group_bandwidth(chip, (16, 16), column[:8]) == one
    assert group_bandwidth(chip, (4, 4), column[:4]) == one  # Too short to be a ring.
    assert group_bandwidth(chip, (16, 16), [(x, y, 0) for x in range(16) for y in range(16)]) == 4 * one


def test_roofline_is_the_slowest_part():
    costs = Roofline(compute=3.0, hbm=2.0, ici=5.0, dcn=0.0)
    assert (costs.bound, costs.overlapped, costs.serial) == ("ici", 5.0, 10.0)


@pytest.mark.parametrize("name", ["v7:2x2", "v5e:2x2x2", "v5e:17x17", "v5e:", "v5e:4x", "v4:4x4", "16x16"])
def test_unknown_topologies_list_the_known(name):
    with pytest.raises(ValueError, match=r"unknown topology .*v4 and v5p: .*4x4x4.*v5e and v6e: .*16x16"):
        parse_name(name)


def test_devices_of_a_topology():
    pytest.importorskip("libtpu")
    assert len(get_topology("v5e:16x16").devices) == 256
    assert len(get_topology("v4:2x2x2").devices) == 8  # Chips, not cores.
    assert get_topology("v5e:4x4", slices=2).chips_per_slice == 16


def test_kernels_count_by_their_cost_estimate_on_all_devices():
    batch, length, width = 4, 384, 128

    def step(qkv):
        return jnp.sum(attention(qkv, 2).astype(jnp.float32))

    qkv = jax.ShapeDtypeStruct((batch, length, 3 * width), jnp.bfloat16)
    one_product = 2 * batch * length**2 * width
    for mesh in (AbstractMesh((1, 1, 1), AXES), AbstractMesh((1, 4, 1), AXES)):
        with jax.sharding.use_abstract_mesh(mesh):
            jaxpr = jax.make_jaxpr(jax.value_and_grad(step))(qkv)
        assert "pallas_call" in str(jaxpr) and ("shard_map" in str(jaxpr)) == (mesh.size > 1)
        assert matmul_flops(jaxpr) == 7 * one_product


KERNEL = """HloModule step

ENTRY %main (x: bf16[8,96]) -> bf16[8,32] {
  %x = bf16[8,96]{1,0} parameter(0)
  ROOT %kernel = bf16[8,32]{1,0} custom-call(%x, %x, %x), custom_call_target="tpu_custom_call", backend_config={BACKEND}
}
"""


def test_a_kernel_moves_what_its_cost_estimate_says():
    stated = '{"custom_call_config":{"body":"","cost_estimate":{"flops":"1","bytes_accessed":"2048"}}}'
    assert hbm_traffic(hlo.parse(KERNEL.replace("{BACKEND}", stated))) == 2048
    assert hbm_traffic(hlo.parse(KERNEL.replace("{BACKEND}", "{}"))) == 2 * 8 * (3 * 96 + 32)
