"""Photographs in, batches of crops out. Nothing here imports JAX, save through Grain in `pipeline`."""
