"""Publish rows of the outbox in their order, and remove the rows that the broker has accepted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from feedbus.clock import Clock
from feedbus.errors import Outage, PublishError, UsageError
from feedbus.logs import EventLog
from feedbus.printable import one_line
from feedbus.store.key_locks import Key
from feedbus.store.protocol import OutboxRow, Store
from feedbus.store.tables import now
from feedbus.wire.message_options import PublishOptions

events = EventLog(__name__)

# While a row is younger than this, the process that added the row may still be publishing it.
IN_FLIGHT_SECONDS = 5.0
PAGE_ROWS = 500  # the number of rows that are read and published together
QUERY_ROWS = 10_000  # a query of _skipped_keys() reads at most this many rows


class RelayBus(Protocol):
    """The methods of a bus that the relay uses, to publish rows of the outbox."""

    def selects_shards(self, exchange: str) -> bool:
        """Return whether the messages of an exchange are divided among shards.

        Return True, too, for an exchange that topology.toml does not contain any more. Then the
        relay keeps the order of its keys.
        """

    def publish_rows(self, rows: Sequence[OutboxRow]) -> Sequence[Exception | None]:
        """Publish the messages of rows together, and wait for their confirms.

        Args:
            rows: the rows of the outbox; each gives the exchange, the key, the payload and the
                message id.

        Returns:
            For each row, None if the broker has accepted the message; otherwise the error.
        """

    def close(self) -> None:
        """Close the connection; the next publish_rows() connects again."""


def options_of(row: OutboxRow, clock: Clock) -> PublishOptions:
    """Return the options with which the message of a row is published now.

    The time that the row was in the outbox is subtracted from the options `expires` and `delay`. If
    the delay is over, `delay` becomes None. If the message has expired, `expires` becomes 1 ms, so
    that the broker drops the message.

    Args:
        row: the row of the outbox.
        clock: gives the current time.
    """
    options: PublishOptions = json.loads(row.options) if row.options else {}
    waited = max(now(clock) - row.created_at, 0) / 1_000_000
    if (expires := options.get("expires")) is not None:
        options["expires"] = max(float(expires) - waited, 0.001)
    if (delay := options.get("delay")) is not None:
        options["delay"] = float(delay) - waited if float(delay) > waited else None
    return options


def split_into_waves(
    rows: Iterable[OutboxRow], selects_shards: Callable[[str], bool]
) -> Iterator[Sequence[OutboxRow]]:
    """Divide rows into waves: groups of rows that are sent together, one group after the other.

    If an exchange has shards, each wave has at most one row of each key. So if the broker refuses a
    row, the later rows of the key are in later waves, and can be held back.

    If an exchange has no shards, thousands of rows can have the same key, and a wave for each of
    them would be slow. So there are only two waves: the first wave has the first row of each key,
    and the second wave has all other rows. If the broker refuses the first row of a key, the other
    rows of the key can be held back. If the broker refuses a row of the second wave, later rows of
    the key in this wave can overtake the refused row.

    Args:
        rows: the rows of the outbox, in the order of their ids.
        selects_shards: returns whether the messages of the exchange with this name are divided
            among shards.
    """
    counts = Counter[Key]()
    waves: list[list[OutboxRow]] = []
    for row in rows:
        earlier = counts[row.exchange, row.key]
        counts[row.exchange, row.key] += 1
        number = earlier if selects_shards(row.exchange) else min(earlier, 1)
        if number == len(waves):
            waves.append([])
        waves[number].append(row)
    yield from waves


def publish_in_waves(
    bus: RelayBus, rows: Iterable[OutboxRow], refused_keys: set[Key] | None = None
) -> Iterator[int]:
    """Publish rows, each key in order; yield the ids of the rows that the broker has accepted.

    The rows are sent in waves, so that rows of the same key on an exchange with shards are sent one
    after the other. If the broker refuses a row, the rows of the same exchange and key in later
    waves are not published, so that their order is kept. All other rows are published.

    Args:
        bus: publishes the messages.
        rows: the rows, in the order of their ids.
        refused_keys: pairs (exchange, routing key). Rows with one of these pairs are not published,
            because an earlier row stays in the outbox. The function adds the pairs of the rows that
            the broker refuses now.

    Raises:
        Outage: the broker is unavailable; the ids of the accepted rows were yielded before.
    """
    refused_keys = set() if refused_keys is None else refused_keys
    for wave in split_into_waves(rows, bus.selects_shards):
        sent_rows = [row for row in wave if (row.exchange, row.key) not in refused_keys]
        if not sent_rows:
            continue
        outage: Outage | None = None
        for row, error in zip(sent_rows, bus.publish_rows(sent_rows), strict=True):
            if error is None:
                yield row.id
            elif isinstance(error, Outage):
                outage = error
            elif isinstance(error, PublishError | UsageError):
                refused_keys.add((row.exchange, row.key))
                events.warning(
                    "outbox_message_refused",
                    "the broker refused a message; it and the later messages of the same exchange"
                    " and key stay in the outbox, and feedbus will try again",
                    row=row.id,
                    exchange=row.exchange,
                    key=row.key,
                    error=one_line(error),
                )
            else:
                raise error
        if outage is not None:
            raise outage


def publish_and_remove(
    store: Store,
    bus: RelayBus,
    rows: Iterable[OutboxRow],
    refused_keys: set[Key] | None = None,
) -> int:
    """Publish rows, remove the rows that the broker has accepted, and return their number.

    Args:
        store: the store with the outbox.
        bus: publishes the messages.
        rows: the rows, in the order of their ids.
        refused_keys: pairs (exchange, routing key). Rows with one of these pairs are not published,
            because an earlier row stays in the outbox. The function adds the pairs of the rows that
            the broker refuses now.

    Raises:
        Outage: the broker or the store is unavailable. Rows that were confirmed before are removed,
            if the store is available. If both are unavailable, the outage of the broker is raised.
    """
    sent_ids: list[int] = []
    try:
        for row_id in publish_in_waves(bus, rows, refused_keys):
            sent_ids.append(row_id)  # noqa: PERF402 -- rows that were published before an error are removed, too
    except BaseException:
        try:
            _remove(store, sent_ids)
        except Exception as error:
            if not store.is_outage(error):
                raise
            log_rows_left(len(sent_ids), error)
        raise
    _remove(store, sent_ids)
    return len(sent_ids)


def _remove(store: Store, row_ids: Sequence[int]) -> None:
    if row_ids:
        with store.transaction():
            store.outbox.remove(row_ids)


def log_messages_left(error: object, **fields: str) -> None:
    """Log that committed messages could not be published, and stay in the outbox.

    Args:
        error: the reason.
        fields: further fields of the log line.
    """
    events.warning(
        "outbox_messages_left",
        "messages could not be published after their commit; they stay in the outbox, and the"
        " operations process will publish them",
        **fields,
        error=one_line(error),
    )


def log_rows_left(count: int, error: BaseException) -> None:
    """Log that published rows could not be removed, so they will be published again.

    Args:
        count: the number of these rows.
        error: the error of the store.
    """
    events.warning(
        "outbox_rows_left",
        "published messages could not be removed from the outbox; feedbus will publish them a"
        " second time, with the same message ids",
        rows=count,
        error=one_line(error),
    )


def _skipped_keys(
    store: Store, rows: Sequence[OutboxRow], refused_keys: Collection[Key]
) -> set[Key]:
    """Return the keys for which a page of rows has a gap.

    A key has a gap if the outbox has a row of this key that is not in the page, but has a lower id
    than the last row of the key in the page. Then the rows of the key in the page must not be
    published yet, because some of them could overtake the row that is not in the page.

    publish_pending() reads a page with a query that leaves out young rows. Usually, a row with a
    lower id is also older. But a row with a lower id can be too young in these cases:

    - The clock was set back, or the clocks of hosts differ.
    - The store needed several seconds to add the row with the higher id. A row gets its time first,
      and its id when the store adds the row. So another row can get a later time and a lower id.

    Args:
        store: the store with the outbox.
        rows: the rows of one page of publish_pending(), in the order of their ids.
        refused_keys: keys whose rows are not published in any case. These keys are not checked,
            because the outbox can have very many rows of them.

    """
    last_ids = {(row.exchange, row.key): row.id for row in rows}
    given_ids = {row.id for row in rows}
    unchecked = set(last_ids).difference(refused_keys)
    skipped, after = set[Key](), 0
    while unchecked:
        found = store.outbox.pending(QUERY_ROWS, after=after, up_to=rows[-1].id, keys=unchecked)
        others = ((row.id, (row.exchange, row.key)) for row in found if row.id not in given_ids)
        skipped |= {key for row_id, key in others if row_id < last_ids[key]}
        if len(found) < QUERY_ROWS:
            break
        after = found[-1].id
        unchecked -= skipped
    return skipped


def publish_pending(  # noqa: PLR0913 -- options, each given by name
    store: Store,
    bus: RelayBus,
    project: str,
    *,
    limit: int = PAGE_ROWS,
    older_than_seconds: float = IN_FLIGHT_SECONDS,
    choose: Callable[[Sequence[OutboxRow]], Sequence[OutboxRow]] = tuple,
) -> int:
    """Publish and remove leftover rows of the outbox; return how many were published.

    The function reads the rows in pages. It holds the lock of the relay for each page, so only one
    process publishes leftover rows at a time. If another process holds the lock, the function ends.

    Args:
        store: the store with the outbox.
        bus: publishes the messages, with the message ids of the rows. So a queue with once = true
            recognises a message that is published twice.
        project: the name of the project, which names the lock.
        limit: the largest number of rows in a page. The function ends at a page without rows.
        older_than_seconds: younger rows are left to the process that added them.
        choose: called with the rows of a page; it returns the rows to publish. The other rows
            stay in the outbox.

    Raises:
        Outage: the store or the broker is unavailable.
    """
    published, after = 0, 0
    # The keys whose rows are not published any more, in this page and in later pages, because an
    # earlier row of the key stays in the outbox. Either the broker refused the earlier row, or
    # _skipped_keys() has found it.
    refused_keys: set[Key] = set()
    while True:
        failure: Outage | None = None
        try:
            with store.exclusive(f"relay.{project}") as acquired:
                rows = (
                    store.outbox.pending(limit, older_than_seconds, after=after) if acquired else []
                )
                if older_than_seconds:  # otherwise, pending() leaves out no row because of its age
                    refused_keys |= _skipped_keys(store, rows, refused_keys)
                try:
                    published += publish_and_remove(store, bus, choose(rows), refused_keys)
                except Outage as error:
                    # It is raised after the block: on PostgreSQL, the block is a transaction, and
                    # an error inside it would undo the removal of the published rows.
                    failure = error
        except Exception:
            if failure is None:  # an earlier outage of the broker has precedence
                raise
        if failure is not None:
            raise failure
        if not rows:
            return published
        after = rows[-1].id
