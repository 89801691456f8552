"""SoftVQ-VAE image tokenizers and generators on their latents, in JAX (arXiv 2412.10958)."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softvq_jax.generator import Generator
    from softvq_jax.tokenizer import Tokenizer

__version__ = "0.1.0"

_PUBLIC = {"Generator": "softvq_jax.generator", "Tokenizer": "softvq_jax.tokenizer"}
__all__ = ["Generator", "Tokenizer"]


def __getattr__(name: str):
    # Imported on first use, because worker processes, which read images, must not import jax.
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
