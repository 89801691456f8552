"""The table of communication by number of chips, for a real config."""

import pytest

from benchmarks import scaling
from configs import b64
from softvq_jax.aot.chips import CHIPS
from softvq_jax.aot.scaling import Mesh, bytes_sent


def test_rows_cover_every_mesh_and_replicated_parameters_send_only_gradients():
    networks = scaling.networks_of(b64.get_config())
    found = list(scaling.rows(networks, CHIPS["v5e"], gflop=500))
    assert [row[:2] for row in found][:3] == [(8, "data"), (8, "data x fsdp=16"), (8, "fsdp")]
    assert len(found) == 3 * len(scaling.CHIP_COUNTS)
    weights = scaling.weights_of(networks, 2)
    trained = weights.sharded + weights.replicated
    assert 170e6 < trained < 190e6  # two ViT-B and their heads
    assert found[0][2].inside_slice == pytest.approx(2 * 2 * trained * 7 / 8)
    assert found[0][2] == bytes_sent(weights, Mesh(1, 8, 1))
