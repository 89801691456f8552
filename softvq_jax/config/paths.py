"""The fields of a config that hold paths."""

import re

from ml_collections import ConfigDict

from softvq_jax.config.schemas import field_values
from softvq_jax.storage.paths import expand

PATHS = re.compile(
    r"data\.(path|eval_path|label_file|eval_label_file)|tokenizer|weights\.\w+|repa\.teacher|evals\.fid\.(weights|reference)"
    r"|init_from|checkpoint\.fallback"
)


def with_expanded_paths(config: ConfigDict) -> ConfigDict:
    """Returns the config with `~` and environment variables in its paths expanded; the same object if nothing changes.

    Names such as `hf://owner/name` and `imagenet2012@train` stay as they are.
    """
    paths = {name: value for name, value in field_values(config) if PATHS.fullmatch(name) and isinstance(value, str)}
    changed = {name: expand(value) for name, value in paths.items() if expand(value) != value}
    if not changed:
        return config
    config = config.copy_and_resolve_references()
    for name, value in changed.items():
        section, _, field = name.rpartition(".")
        _section(config, section)[field] = value
    return config


def _section(config: ConfigDict, name: str) -> ConfigDict:
    for part in filter(None, name.split(".")):
        config = config[part]
    return config
