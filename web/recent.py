"""Tweets as feeds show them, kept for a few seconds: many feeds show the same ones."""

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
    """What was read of the store lately, in two generations, the older of which is dropped whole.

    A tweet never changes; one that was deleted is shown for twice SECONDS at most. Threads share
    it without a lock: two that begin a generation at once do no more than read some tweets again.
    """

    def __init__(
        self,
        load: Load = queries.read_tweets,
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST,
    ) -> None:
        """Load what is not there.

        Args:
            load: returns those tweets of some ids that there are.
            clock: seconds.
            most: how many tweets a generation keeps.

        """
        self._load = load
        self._clock = clock
        self._most = most
        self._generations: tuple[dict[int, Shown], dict[int, Shown]] = ({}, {})
        self._ends_at = 0.0

    def read(self, tweet_ids: Sequence[int]) -> list[bytes]:
        """Return the JSON of those tweets that there are, the oldest first."""
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
