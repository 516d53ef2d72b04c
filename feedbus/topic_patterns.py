"""Patterns of topic exchanges, and the routing keys that match them."""

from __future__ import annotations

from collections.abc import Sequence


def words_of(routing_key: str) -> Sequence[str]:
    """Return the words of a routing key; the empty key has none."""
    return routing_key.split(".") if routing_key else []


def topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether words match: `*` stands for one word, `#` for any number, none included."""
    if list(pattern) == [""]:
        return not words
    reached = {0}  # the positions in the pattern that the words so far reach; a # can be empty
    reached = _skip_hashes(pattern, reached)
    for word in words:
        following = set()
        for position in reached:
            if position == len(pattern):
                continue
            if pattern[position] == "#":
                following.add(position)
            elif pattern[position] in {"*", word}:
                following.add(position + 1)
        reached = _skip_hashes(pattern, following)
    return len(pattern) in reached


def _skip_hashes(pattern: Sequence[str], positions: set[int]) -> set[int]:
    found = set(positions)
    for start in positions:
        position = start
        while position < len(pattern) and pattern[position] == "#":
            position += 1
            found.add(position)
    return found
