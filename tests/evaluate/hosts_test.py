import numpy as np
import pytest

from tests import programs
from tests.programs import measure_rows


def test_rows_do_not_depend_on_devices_and_processes(tmp_path):
    outputs = programs.run("measure_rows", tmp_path / "two", 23, 4, processes=2, devices=2)
    assert outputs[0].split()[-1] == measure_rows.digest(tmp_path / "one", 23, 8)


@pytest.mark.slow
def test_fid_does_not_depend_on_devices_batches_and_order(tmp_path):
    fids = []
    for i, (devices, batch, order) in enumerate([(1, 7, 0), (8, 16, 0), (1, 61, 5)]):
        [output] = programs.run("measure_fid", tmp_path / str(i), batch, order, devices=devices)
        count, fid = output.split()[-2:]
        assert int(count) == devices
        fids.append(float(fid))
    np.testing.assert_allclose(fids, fids[0], rtol=1e-6)
    assert fids[0] > 0.1
