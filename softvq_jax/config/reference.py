"""The reference of all config fields, generated from the configs, for the terminal and as Markdown."""

import textwrap
from collections.abc import Sequence

from ml_collections import ConfigDict

from softvq_jax.config.fields import Field, flatten
from softvq_jax.config.names import load_config
from softvq_jax.config.schemas import field_values, schema_of

# One for each kind of model.
REFERENCE_CONFIGS = ("l64", "maetok_b128", "titok_bl64_vq8k", "sit:xl_l64", "dit:xl_l64", "mar:h_l64", "maskgit:b_vq64")


def text_reference(config: ConfigDict, width: int = 100) -> str:
    """Returns all fields of a config as text: name, value in this config, unit, meaning, allowed values.

    Args:
      config: the config.
      width: width of the lines in characters.
    """
    entries = []
    for name, value, field in _rows(config):
        unit = f" {field.unit}" if field and field.unit and value is not None else ""
        meaning = f"{field.doc} Allowed: {field.allowed.text}." if field else ""
        entries.append(f"--config.{name}={value!r}{unit}")
        entries += textwrap.wrap(meaning, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(entries)


def markdown_reference(names: Sequence[str] = REFERENCE_CONFIGS) -> str:
    """Returns a Markdown page of all fields of the named configs, with a table for each section.

    For the second and later configs, only fields that differ from those of the first config are listed.

    Args:
      names: names of configs, as for `load_config`.
    """
    first: dict[str, tuple] = {}
    lines: list[str] = []
    for number, name in enumerate(names):
        config = load_config(name)
        rows = {field: (value, declared) for field, value, declared in _rows(config)}
        lines += [f"## `--config={name}`", ""]
        if number:
            lines += [f"Fields that are not listed are as in `--config={names[0]}`.", ""]
        lines += _tables({field: row for field, row in rows.items() if not _equal(first.get(field), row)})
        first = first or rows
    return "\n".join(lines)


def _rows(config: ConfigDict) -> list[tuple[str, object, Field | None]]:
    """Returns name, value and declaration of each field, in the schema's order; undeclared fields come last."""
    declared, values = flatten(schema_of(config)), dict(field_values(config))
    names = [name for name in declared if name in values]
    names += [name for name in values if name not in declared]
    return [(name, values[name], declared.get(name)) for name in names]


def _equal(one: tuple | None, other: tuple) -> bool:
    if one is None:
        return False
    (value, field), (other_value, other_field) = one, other
    if field is None or other_field is None:
        return value == other_value and field is other_field
    return (value, field.doc, field.allowed.text) == (other_value, other_field.doc, other_field.allowed.text)


def _tables(rows: dict[str, tuple]) -> list[str]:
    lines, section = [], None
    for name, (value, field) in rows.items():
        head = name.rpartition(".")[0]
        if head != section:
            section = head
            lines += ["", f"### `config.{head}`" if head else "### `config`", ""]
            lines += ["| field | value | unit | meaning | allowed |", "| --- | --- | --- | --- | --- |"]
        unit, doc, allowed = (field.unit, field.doc, field.allowed.text) if field else ("", "", "")
        cells = (f"`{name.rpartition('.')[2]}`", f"`{value!r}`", unit, doc, allowed)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines[1:], ""] if lines else []
