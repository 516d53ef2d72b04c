"""Write names into a sentence: a list of names, or a suggestion instead of a wrong name."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names and the number of the others: "a, b, c and 2 more".

    Args:
        names: the names.
        limit: how many names are listed.

    """
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def expected_one_of(name: str, known: Collection[str], limit: int = 50) -> str:
    """Return which names were expected instead of an unknown name, for the text of an error.

    The text also suggests the most similar name, if one is similar.

    Args:
        name: the unknown name.
        known: the expected names.
        limit: how many names are listed; the text then has the number of the others.

    """
    from difflib import get_close_matches  # only for an error

    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"expected one of {listed([*known], limit)}{hint}"
