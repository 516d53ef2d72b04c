"""The expected and the actual numbers of rows in the store after a demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, cast

from peewee import fn

from feedbus.ring import Ring
from feedbus.store import open_store
from feedbus.topology import Topology
from store.models import EmailNotification, FeedEntry, Follower, SmsNotification, Tweet, User


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of rows that a demo stores.

    Attributes:
        entries: the entries of feeds.
        emails: the notifications by e-mail.
        messages: the notifications by SMS.

    """

    entries: int
    emails: int
    messages: int

    def __str__(self) -> str:
        """Return the numbers as text."""
        return f"{self.entries:,} feed entries, {self.emails:,} e-mails, {self.messages:,} SMS"


class Tally:
    """Counts the rows in the store of the demo, in a `with` block that opens the store."""

    def __init__(self, topology: Topology) -> None:
        """Create the object; the store of this topology is opened at the start of `with`."""
        self._topology = topology

    def __enter__(self) -> Self:
        """Open the store."""
        self._store = open_store(self._topology)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self._store.close()

    def expected(self) -> Counts:
        """Return the numbers of rows that result from the stored tweets, users and followers."""
        totals = (
            Tweet.select(fn.COUNT(Follower.follower), fn.COUNT(User.email), fn.COUNT(User.phone))
            .join(Follower, on=(Follower.author == Tweet.author))
            .join(User, on=(User.id == Follower.follower))
        )
        entries, emails, messages = totals.scalar(as_tuple=True)
        return Counts(entries, emails, messages)

    def stored(self) -> Counts:
        """Return the numbers of rows that are stored now."""
        return Counts(
            FeedEntry.select().count(),
            EmailNotification.select().count(),
            SmsNotification.select().count(),
        )

    def by_shard(self) -> dict[str, int]:
        """Return the number of feed entries of each shard, by the name of the shard.

        A feed entry counts for the shard of update_feed that owns the id of the reader as a key.
        """
        ring = Ring.of(self._topology.generation("update_feed").members)
        owned: Counter[str] = Counter()
        feeds = FeedEntry.select(FeedEntry.reader_id, fn.COUNT(FeedEntry.tweet_id)).group_by(
            FeedEntry.reader_id
        )
        for reader, count in cast("Iterable[tuple[int, int]]", feeds.tuples()):
            owned[ring.route(str(reader))] += count
        return dict(owned)
