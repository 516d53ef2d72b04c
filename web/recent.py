"""Tweets in the form of feeds, cached for a few seconds: many feeds show the same tweets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from feedbus.operations.responses import encode
from store import queries

SECONDS = 5.0
MOST = 10_000  # tweets, of some hundred bytes each

Shown = tuple[str, int, bytes]  # moment, id and JSON: sorted, the oldest is first
Load = Callable[[Iterable[int]], Sequence[Mapping[str, Any]]]


class Recent:
    """A cache of tweets as JSON, for the feeds of one server process.

    It has two generations; the older generation is dropped as a whole. A tweet never changes; a
    deleted tweet is shown for twice SECONDS at most. Threads use the cache without a lock: if two
    of them begin a generation at the same time, some tweets are only read again.
    """

    def __init__(
        self,
        load: Load = queries.read_tweets,
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST,
    ) -> None:
        """Create an empty cache.

        Args:
            load: returns the tweets with the given ids that exist.
            clock: returns the time in seconds.
            most: the largest number of tweets in a generation.

        """
        self._load = load
        self._clock = clock
        self._most = most
        self._generations: tuple[dict[int, Shown], dict[int, Shown]] = ({}, {})
        self._ends_at = 0.0

    def read(self, tweet_ids: Sequence[int]) -> list[bytes]:
        """Return the JSON of the tweets that exist, the oldest first.

        Args:
            tweet_ids: the ids of the tweets; those that are not in the cache are read from the
                store.

        """
        young, old = self._generations
        now = self._clock()
        if now >= self._ends_at or len(young) >= self._most:
            young, old = self._generations = ({}, young)
            self._ends_at = now + SECONDS
        found = {number: young.get(number) or old.get(number) for number in tweet_ids}
        missing = [number for number, tweet in found.items() if tweet is None]
        if missing:
            for tweet in self._load(missing):
                number = tweet["id"]
                found[number] = young[number] = (
                    tweet["createdAt"],
                    number,
                    encode(tweet).encode(),
                )
        # By moment: ids of tweets posted at once, or in another system, may disagree with it.
        return [tweet[2] for tweet in sorted(filter(None, found.values()))]
