"""The reference of topology.toml: JSON Schema for editors, tables for the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from feedbus.config.options import DECLARATION
from feedbus.config.table_types import (
    Table,
    Tables,
    TableSchema,
    default_of,
    options_of,
    table_schema,
)

# The version of JSON Schema that editors for TOML files support.
DRAFT = "http://json-schema.org/draft-07/schema#"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a whole topology.toml, as `feedbus schema` prints it."""
    return {"$schema": DRAFT, "title": "feedbus topology", **table_schema(DECLARATION)}


def markdown() -> str:
    """Return the reference of topology.toml in Markdown, as `feedbus schema --markdown` prints it.

    Each table of the file has a section, with the kind, the default and the meaning of each option.
    """
    return "\n".join(_section("The top of the file", DECLARATION, "")) + "\n"


def _section(title: str, table: TableSchema, path: str) -> Iterator[str]:
    """Yield the lines of the section of a table, and of the sections of the tables in it.

    Args:
        title: the title of the section.
        table: the schema of the table.
        path: the path of the table, such as "queues.NAME."; "" for the top of the file.

    """
    options = options_of(table)
    plain = {
        name: option for name, option in options.items() if not _has_only_section(name, option)
    }
    if plain:
        yield f"### {title}\n"
        yield "| option | kind | default | meaning |\n|---|---|---|---|"
        for name, option in plain.items():
            default = "needed" if option.required else default_of(table, name) or "none"
            literal = default[0] in '"[{' or default.isdecimal() or default in {"true", "false"}
            default = f"`{default}`" if literal else default
            meaning = option.metadata["description"]
            yield f"| `{name}` | {option.kind} | {default} | {meaning} |"
        yield ""
    for name, option in options.items():
        inner, below = _inner(option), f"{path}{name}"
        if inner is None or below == "defaults.queue":
            continue
        if isinstance(option, Tables):
            yield from _section(f"`[{below}.NAME]`", inner, f"{below}.NAME.")
        else:
            yield from _section(
                f"`{name} = {{ … }}`" if "NAME" in below else f"`[{below}]`", inner, f"{below}."
            )


def _has_only_section(name: str, option: Any) -> bool:
    """Whether an option has a section of its own on the reference page, and no row in a table.

    The result is True for each option whose value is a table of TOML, except `batch` and `retry`:
    these have a section and a row.
    """
    return _inner(option) is not None and name not in {"batch", "retry"}


def _inner(option: Any) -> TableSchema | None:
    """Return the schema of a table, or of the tables in a table; None for any other option."""
    if isinstance(option, Tables):
        return _inner(option.entry)
    return option.table if isinstance(option, Table) else None
