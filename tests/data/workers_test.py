import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from softvq_jax.data import workers
from softvq_jax.data.source import UnreadableImage


def loaded(*names):
    return os.getpid(), [name for name in names if name in sys.modules]


def fail(reason):
    raise UnreadableImage("a.jpg", reason)


def arrays(height):
    image = np.arange(height * 5 * 3, dtype=np.uint8).reshape(height, 5, 3)
    return {"image": image, "turned": image.T, "name": "a", "none": image[:0]}


def one_by_one(heights, broken=-1):
    for height in heights:
        if height == broken:
            fail("torn")
        yield arrays(height)


def end():
    os._exit(3)


@pytest.fixture
def pool_of(request):
    pools = []

    def make(function, count=1):
        pools.append(workers.WorkerPool(function, count))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_workers_import_neither_jax_nor_grain(pool_of):
    """Not even if this process has imported them, and with the pipeline's function."""
    import softvq_jax.data.pipeline  # noqa: F401

    pool = pool_of(loaded)
    process, modules = pool("jax", "jaxlib", "grain", "tensorflow", "softvq_jax.data.workers")
    assert process != os.getpid()
    assert modules == ["softvq_jax.data.workers"]


def test_exceptions_come_back_as_themselves(pool_of):
    pool = pool_of(fail)
    for reason in ("torn", "empty"):  # the worker lives on
        with pytest.raises(UnreadableImage) as caught:
            pool(reason)
        assert str(caught.value) == f"a.jpg: {reason}"
        assert "in fail" in caught.value.__notes__[0]


def test_arrays_of_growing_and_shrinking_size(pool_of):
    pool = pool_of(arrays)
    for height in (4, 4000, 2, 1, 9000):
        result = pool(height)
        for name, expected in arrays(height).items():
            np.testing.assert_array_equal(result[name], expected)


def test_a_generator_function_returns_a_list(pool_of):
    pool, heights = pool_of(one_by_one), [3, 2000, 0, 7]
    assert pool([]) == []
    for result, height in zip(pool(heights), heights, strict=True):
        for name, expected in arrays(height).items():
            np.testing.assert_array_equal(result[name], expected)
    with pytest.raises(UnreadableImage, match="torn"):
        pool(heights, 7)


def test_results_are_not_overwritten_by_later_calls(pool_of):
    pool = pool_of(np.full)
    first, second = pool((300, 300), 1), pool((300, 300), 2)
    assert (first == 1).all() and (second == 2).all()


def test_a_worker_that_ends_is_an_error(pool_of):
    with pytest.raises(workers.WorkerDied, match="exit code 3"):
        pool_of(end)()


def test_calls_run_in_parallel(pool_of):
    pool = pool_of(time.sleep, 2)
    pool(0), pool(0)  # both have started
    threads = [threading.Thread(target=pool, args=(0.5,)) for _ in range(2)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 0.95


def test_close_ends_the_processes_and_wakes_later_calls(pool_of):
    pool = pool_of(loaded, 2)
    process, _ = pool()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool()


def test_workers_outlive_signals_to_the_job_and_end_with_the_parent(tmp_path):
    """SIGTERM goes to all processes of a job, but the parent still reads images to save. Then the parent is killed."""
    script = "\n".join([
        "import os, sys, time",
        "from softvq_jax.data import workers",
        "pool = workers.WorkerPool(os.getpid, 1)",
        "print(pool(), flush=True)",
        "time.sleep(60)",
    ])  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGINT)
    time.sleep(0.2)
    os.kill(worker, 0)  # is still there
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _runs(worker):
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def _runs(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
