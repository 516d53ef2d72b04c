"""The type of command-line options that name routing keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from feedbus.balance.key_input import RANGE, Keys


class KeysType(click.ParamType[Keys]):
    """The type of the option --keys: A..B (numbers), the path of a file, or - for stdin."""

    name = "keys"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keys:
        """Return the source of the routing keys; a wrong range ends the command with a usage error.

        click calls the method. Nothing is read from a file yet.

        Args:
            value: the text of the option.
            param: the option, for the error.
            ctx: click's context, for the error.

        """
        match = RANGE.fullmatch(value)
        if match and int(match[1]) > int(match[2]):
            self.fail(f"expected A..B with A not larger than B, got '{value}'", param, ctx)
        if not match and ".." in Path(value).name and not Path(value).exists():
            self.fail(
                f"expected A..B in whole numbers, such as 1..10000, got '{value}'", param, ctx
            )
        return Keys(value)


KEYS = KeysType()
