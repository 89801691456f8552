"""Prints the losses of a generator's first steps on all devices, and the norms of its averaged parameters."""

import json
import sys

import jax
import numpy as np

from tests import small_generators

if __name__ == "__main__":
    state, logs = small_generators.take_steps(small_generators.config(sys.argv[1]), 3, num_devices=jax.device_count())
    norms = [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(state.ema)]
    print(json.dumps({"losses": [float(log["loss"]) for log in logs], "norms": norms}))
