import contextlib
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.measure import host_share, measure
from softvq_jax.evaluate.row_cache import RowCache


class Squares:
    """Image i is the number i; its row is i * i. Fails once, at `fails_at`."""

    def __init__(self, count, fails_at=None):
        self.count, self.fails_at, self.measured, self.threads = count, fails_at, [], set()

    def __len__(self):
        return self.count

    def read(self, start, stop):
        self.threads.add(threading.get_ident())
        return np.arange(start, stop)

    def rows(self, batch):
        if self.fails_at in batch:
            raise KeyboardInterrupt
        self.measured += batch.tolist()
        return {"square": batch.astype(np.float64) ** 2}


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (9, 3), (2, 5)])
def test_every_image_is_measured_once_in_order(tmp_path, count, batch_size):
    predictions, cache, seen = Squares(count), RowCache(tmp_path, {}), []
    measure(predictions, cache, batch_size=batch_size, on_batch=seen.append)
    assert predictions.measured == list(range(count))
    np.testing.assert_array_equal(cache["square"], np.arange(count) ** 2)
    assert seen == [*range(batch_size, count, batch_size), count]
    assert threading.get_ident() not in predictions.threads


def test_an_interrupted_measurement_resumes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(Squares(20, fails_at=11), RowCache(tmp_path, {}), batch_size=4)
    predictions, cache = Squares(20), RowCache(tmp_path, {})
    measure(predictions, cache, batch_size=3)  # another batch size, on another machine perhaps
    assert predictions.measured == list(range(8, 20))
    np.testing.assert_array_equal(cache["square"], np.arange(20) ** 2)


@pytest.mark.parametrize("batch_size", [3, 4, 50])
def test_unreadable_images_get_no_row(tmp_path, batch_size):
    """Neither where a batch has no other images, nor after an interruption."""
    broken = {0: "a", 4: "b", 5: "c", 6: "d", 19: "e"}
    readable = [i for i in range(20) if i not in broken]
    predictions = Squares(20, fails_at=11)
    predictions.unreadable = broken
    with contextlib.suppress(KeyboardInterrupt):
        measure(predictions, RowCache(tmp_path, {}), batch_size=batch_size)
    predictions.fails_at, cache = None, RowCache(tmp_path, {})
    measure(predictions, cache, batch_size=batch_size)
    assert cache.items.tolist() == readable and len(cache) == 15
    np.testing.assert_array_equal(cache["square"], np.square(readable))
    predictions.unreadable = dict.fromkeys(range(20), "x")
    with pytest.raises(ValueError, match="none of the 20 images is readable"):
        measure(predictions, RowCache(tmp_path / "none", {}), batch_size=batch_size)


@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 5, 16, 17])
def test_the_shares_of_the_hosts_cover_all_images(count, hosts):
    each = -(-count // hosts)
    rows = []
    for host in range(hosts):
        start, stop = host_share(100, 100 + count, host, hosts)
        assert 100 <= start < stop <= 100 + count
        rows += [*range(start, stop)] + [None] * (each - (stop - start))  # as `_gather` pads
    assert rows[:count] == [*range(100, 100 + count)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_short_batches_are_padded_and_the_padding_removed(count):
    devices, shapes = LocalDevices(batch_size=8), set()

    def function(a, b):
        shapes.add((a.shape, b.shape))
        return {"sum": a.sum(axis=1) + b, "first": jnp.asarray(a[:, 0])}

    a, b = np.arange(count * 3.0).reshape(count, 3), np.arange(float(count))
    rows = devices.map(function, a, b)
    np.testing.assert_array_equal(rows["sum"], a.sum(axis=1) + b)
    np.testing.assert_array_equal(rows["first"], a[:, 0])
    assert shapes == {((devices.batch_size, 3), (devices.batch_size,))}
