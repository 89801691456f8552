"""Data sources and the input pipeline. Only `pipeline` imports JAX, through Grain."""
