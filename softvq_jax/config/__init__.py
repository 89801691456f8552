"""Training configs: every field with its default, meaning, unit and allowed values. Nothing here imports jax."""

from softvq_jax.config.names import load_config
from softvq_jax.config.schemas import check_values, schema_of
from softvq_jax.config.tokenizer import tokenizer_config

__all__ = ["check_values", "load_config", "schema_of", "tokenizer_config"]
