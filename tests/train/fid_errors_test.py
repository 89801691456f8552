"""Errors of the files that an evaluation writes in process 0 stop all processes."""

import concurrent.futures
import threading
import types

import pytest
from ml_collections import ConfigDict

from softvq_jax.train import agreement, fid
from softvq_jax.train.write_errors import WriteFailed

STEP = 7


class Together:
    """Gathers the values of processes that are threads, once, and returns `combine(values)`."""

    def __init__(self, processes, combine):
        self._values, self._barrier, self._combine = [], threading.Barrier(processes, timeout=10.0), combine

    def __call__(self, value):
        self._values.append(value)
        self._barrier.wait()
        return self._combine(self._values)


class Record:
    """The results of an evaluation, whose files cannot be written."""

    content, metrics = {"warnings": []}, {"fid": 1.0}
    samples = types.SimpleNamespace(require_rows=lambda: None)


@pytest.fixture
def evaluator(tmp_path, monkeypatch):
    """In process 0, `evaluate` returns a record, and in the other None."""
    task = types.SimpleNamespace(
        metric_names={"fid": "eval_rfid"},
        data=types.SimpleNamespace(image_size=None),
        predictions=lambda *_, **__: None,
        protocol="softvq-rfid",
        codebook_size=None,
    )
    run = types.SimpleNamespace(
        task=task, workdir=tmp_path, num_steps=STEP, check_preemption=None, on_host=lambda tree: tree
    )
    monkeypatch.setattr(fid, "evaluate", lambda *_, **__: evaluator.record.get(threading.get_ident()))
    monkeypatch.setattr(agreement, "sum_over_processes", Together(2, sum))
    monkeypatch.setattr(agreement, "texts_of_processes", Together(2, list))
    evaluator = fid.Fid(ConfigDict({"every_steps": 0, "num_images": 2}), run)
    evaluator.record = {}
    return evaluator


def test_a_file_that_process_0_cannot_write_stops_all_processes(evaluator, tmp_path):
    (tmp_path / "evaluations").touch()  # a file where the folder has to be
    state = types.SimpleNamespace(ema={})

    def process(number):
        if number == 0:
            evaluator.record[threading.get_ident()] = Record()
        return evaluator(state, STEP)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(process, number) for number in range(2))
    says = rf"^{tmp_path}/evaluations/step_0000007 could not be written: Not a directory$"
    for result in (first.result, second.result):
        with pytest.raises(WriteFailed, match=says):
            result()
