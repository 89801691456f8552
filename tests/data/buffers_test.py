import numpy as np

from softvq_jax.data.buffers import Buffers


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_reused_only_after_all_views_are_deleted():
    buffers = Buffers()
    first = buffers.take(24)
    first[:] = range(24)
    place, row = address(first), first.reshape(2, 3, 4)[1]
    del first
    other = buffers.take(24)
    assert address(other) != place
    np.testing.assert_array_equal(row.ravel(), range(12, 24))
    del row
    assert address(buffers.take(20)) == place


def test_arrays_of_different_sizes_do_not_share_memory():
    buffers = Buffers()
    place = address(buffers.take(100_000))
    small, none = buffers.take(10), buffers.take(0)
    assert address(small) != place and none.size == 0
    for size in (99_999, 70_000, 131_071):
        large = buffers.take(size)
        large[:] = 7
        assert address(large) == place
        del large
    assert address(buffers.take(131_072)) != place
