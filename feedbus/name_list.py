"""Write names into a sentence: a list of names, or a suggestion instead of a wrong name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to a misspelt name, or "" if none is similar.

    Args:
        name: the misspelt name.
        known: the names that are allowed.

    """
    from difflib import get_close_matches  # only for an error

    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = name.casefold()
    found = get_close_matches(folded, by_folded, n=5, cutoff=0.6)
    return by_folded[max(found, key=lambda one: _likeness(folded, one))] if found else ""


def _likeness(name: str, known: str) -> float:
    """Return how alike two names are.

    A common beginning counts more, so that `retry` is suggested for `retries`.
    """
    from difflib import SequenceMatcher  # only for an error

    common = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, known, strict=False))
    )
    alike = SequenceMatcher(None, known, name).ratio()
    return alike + 0.3 * common / max(len(name), len(known))
