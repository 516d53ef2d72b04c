"""The type of command-line options that are durations, in the notation of topology.toml."""

from __future__ import annotations

from typing import Any

import click


class Duration(click.ParamType[float]):
    """The type of a command-line option with a duration, such as 500ms, 30s or 5m."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the duration in seconds; a wrong text ends the command with a usage error.

        click calls the method for each value.

        Args:
            value: the text of the option, or a number of seconds.
            param: the option, for the error.
            ctx: click's context, for the error.

        """
        from feedbus.units import guess_duration, read_duration

        if isinstance(value, int | float):
            return float(value)
        seconds = read_duration(value)
        if not seconds:
            guess = guess_duration(value)
            hint = f"; did you mean '{guess}'?" if guess else ""
            self.fail(f"expected a duration such as 30s or 5m, got '{value}'{hint}", param, ctx)
        return seconds


DURATION = Duration()
