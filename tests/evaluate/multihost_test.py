import pytest

from tests import programs


@pytest.mark.slow
def test_rows_do_not_depend_on_devices_and_processes(tmp_path):
    digests = {
        programs.run("measure_rows", tmp_path / str(i), 23, batch, processes=processes, devices=devices)[0].split()[-1]
        for i, (processes, devices, batch) in enumerate([(1, 1, 4), (1, 4, 8), (2, 2, 4)])
    }
    assert len(digests) == 1
