"""The type of command-line options that name routing keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from feedbus.balance.key_input import RANGE, Keys


class KeysType(click.ParamType[Keys]):
    """Routing keys on the command line: A..B, a file, or - for standard input."""

    name = "keys"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keys:
        """Return the source of the routing keys; A..B must be a valid range."""
        match = RANGE.fullmatch(value)
        if match and int(match[1]) > int(match[2]):
            self.fail(f"expected A..B with A not larger than B, got '{value}'", param, ctx)
        if not match and ".." in Path(value).name and not Path(value).exists():
            self.fail(
                f"expected A..B in whole numbers, such as 1..10000, got '{value}'", param, ctx
            )
        return Keys(value)


KEYS = KeysType()
