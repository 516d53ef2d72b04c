"""Patterns of topic exchanges, and the routing keys that match them."""

from __future__ import annotations

from collections.abc import Sequence


def words_of(routing_key: str) -> Sequence[str]:
    """Split a routing key at its dots; return the words. The empty key has no words.

    The result is for topic_matches().
    """
    return routing_key.split(".") if routing_key else []


def topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether the words of a routing key match a pattern of a topic exchange.

    Args:
        pattern: the words of the pattern; `*` stands for one word, `#` for zero or more words.
        words: the words of the routing key, from words_of().

    """
    if list(pattern) == [""]:
        return not words
    # The positions in the pattern: the part before a position matches the words so far. There can
    # be several positions, because a `#` can stand for any number of words.
    reached = {0}
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
    """Return some positions in a pattern, and the positions that follow them after each `#`.

    A `#` can stand for no words. So from the position of a `#`, the next position is reached
    without a word of the routing key.

    Args:
        pattern: the words of the pattern.
        positions: indexes in the pattern; the length of the pattern stands for its end.

    """
    found = set(positions)
    for start in positions:
        position = start
        while position < len(pattern) and pattern[position] == "#":
            position += 1
            found.add(position)
    return found
