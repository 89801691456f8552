import numpy as np
import pytest

from tests import programs


def test_rows_do_not_depend_on_devices_and_processes(tmp_path):
    digests = {
        programs.run("measure_rows", tmp_path / str(i), 23, batch, processes=processes, devices=devices)[0].split()[-1]
        for i, (processes, devices, batch) in enumerate([(1, 1, 4), (1, 4, 8), (2, 2, 4)])
    }
    assert len(digests) == 1


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
