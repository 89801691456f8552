"""Training configs: every field, its default and its meaning. Nothing here imports jax."""

from softvq_jax.config.tokenizer import tokenizer_config

__all__ = ["tokenizer_config"]
