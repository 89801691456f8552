"""The order of the samples: permutations that are computed index by index, and never stored.

A Feistel network permutes the numbers of a few bits whatever its round function is (Luby and Rackoff 1988); walking on
from a result that is too large until one is not makes it a permutation of any length (Black and Rogaway 2002). Grain's
own index shuffle does the same on at least 16 bits: that is 1 ms an index for a dozen items.
"""

import functools

import numpy as np

ROUNDS = 8
FEWEST_BITS = 6  # on fewer, a network reaches too few of the orders
WORD = 2**64 - 1


def shuffled(index: int, length: int, seed: int) -> int:
    """Item, of `length`, of the global sample `index`: the `index // length`-th pass, in an order of its own.

    Args:
      index: number of the sample since the run began.
      length: number of items; every pass visits each once.
      seed: of all orders.
    """
    pass_number, item = divmod(index, length)
    keys = _keys(seed, pass_number)
    bits = max(FEWEST_BITS, (length - 1).bit_length())
    while (item := _permuted(item, bits, keys)) >= length:
        pass
    return item


def _permuted(number, bits, keys):
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << bits - low_bits) - 1
    low, high = number & low_mask, number >> low_bits
    for i in range(0, ROUNDS, 2):
        low ^= _mixed(high ^ keys[i]) & low_mask
        high ^= _mixed(low ^ keys[i + 1]) & high_mask
    return high << low_bits | low


def _mixed(word):
    """The finaliser of SplitMix64: every bit of the result depends on every bit of the 64."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    return word ^ word >> 31


@functools.lru_cache(maxsize=8)
def _keys(seed, pass_number):
    return tuple(map(int, np.random.SeedSequence((seed, pass_number)).generate_state(ROUNDS, np.uint64)))
