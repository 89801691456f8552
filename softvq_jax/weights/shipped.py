"""The models that the package contains, which open by name and without a network."""

import dataclasses
import pathlib

FOLDER = pathlib.Path(__file__).parent / "shipped"


@dataclasses.dataclass(frozen=True)
class ShippedModel:
    """A model in the package; its folder also has a card, `README.md`.

    Attributes:
      kind: "tokenizer" or "generator".
      config: name of the config that trained it.
      description: one line about it.
    """

    kind: str
    config: str
    description: str


DEFAULT_TOKENIZER = "softvq-mini"

SHIPPED = {
    DEFAULT_TOKENIZER: ShippedModel(
        "tokenizer", "mini", "128 px, 32 tokens; small, trained on 140 free photographs with the pixel loss only"
    ),
}
"""All of them, by the name that `from_pretrained` takes."""


def shipped_folder(name: str) -> pathlib.Path | None:
    """Returns the folder of the model of this name; None if the package contains none."""
    return FOLDER / name if name in SHIPPED else None
