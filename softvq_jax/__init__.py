"""SoftVQ-VAE and the systems around it, in JAX."""

import importlib

__version__ = "0.1.0"

_PUBLIC = {"Generator": "softvq_jax.generator", "Tokenizer": "softvq_jax.tokenizer"}
__all__ = ["Generator", "Tokenizer"]


def __getattr__(name: str):
    # Looked up on first use: reading a config or an image in a worker process must not import jax.
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
