"""The models that the package contains, which open by name and without a network; each folder has a card."""

import pathlib

FOLDER = pathlib.Path(__file__).parent / "shipped"
DEFAULT_TOKENIZER = "softvq-mini"  # made by configs/mini.py
SHIPPED = (DEFAULT_TOKENIZER,)
"""All of them, by the name that `from_pretrained` takes."""


def shipped_folder(name: str) -> pathlib.Path | None:
    """Returns the folder of the model of this name; None if the package contains none."""
    return FOLDER / name if name in SHIPPED else None
