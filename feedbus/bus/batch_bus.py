"""The bus of a batch handler: it collects messages, which are sent after the commit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby
from typing import NoReturn

from feedbus.bus.collecting_bus import Collect, refuse_late
from feedbus.bus.interface import Bus
from feedbus.bus.part_merging import merge
from feedbus.bus.record_encoding import derive_origin
from feedbus.errors import UsageError
from feedbus.records import Records
from feedbus.records.batch import Batch
from feedbus.records.ids import MAX_ORDINAL, Ids, child_ordinals, pick
from feedbus.records.publish_arguments import without_key
from feedbus.records.publish_options import envelope_of
from feedbus.records.published_parts import Part

# How many messages for one exchange are collected before they are packed. So also with many shards,
# each shard gets large packs.
MAX_AT_ONCE = 50_000


class BatchBus(Bus):
    """The bus of a batch handler: the methods of Records publish on it.

    If a record is handled again, also in another batch, its messages get the same ids: an id is
    derived from the record, the queue, the exchange, and the number of the message among the
    record's messages for the exchange.

    An object is created for each call of a batch handler.
    """

    def __init__(
        self,
        records: Records,
        collect: Collect,
        shards: Callable[[str], int] = lambda _: 0,
        max_at_once: int = MAX_AT_ONCE,
        *,
        queue: str = "",
    ) -> None:
        """Create the bus of a batch handler that is called with these records.

        Args:
            records: all records of the handler's batch.
            collect: receives the records of the messages, at the latest when flush() is called.
            shards: returns the number of shards of an exchange, or 0 for an exchange without
                shards; raises UsageError if there is no such exchange.
            max_at_once: how many messages for one exchange are packed together.
            queue: the handler's queue, as Sender.queue_of_ids() returns it. The ids of the messages
                depend on it.

        """
        self._records = records
        self._queue = queue
        self._collect = collect
        self._shards = shards
        self._max_at_once = max_at_once
        self._parents: Ids | None = None  # the ids of the records; None until they are needed
        # For each exchange: the parts that are not packed yet.
        self._parts_by_exchange: dict[str, list[Part]] = {}
        self._counts: Counter[str] = Counter()  # for each exchange: the messages of these parts
        # For each exchange: how many messages each record has caused there.
        self._message_counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        records.bind(self)

    def publish_many(self, *_: object, **__: object) -> NoReturn:
        """Raise UsageError: in a batch handler feedbus cannot know which record is the cause.

        Raises:
            UsageError: always.

        """
        msg = (
            "a batch handler cannot publish with the bus, because the id of a message is derived"
            " from the record that causes it; call records.publish(…), or publish_many(…) or"
            " publish_columns(…) on each of records.singles()"
        )
        raise UsageError(msg)

    publish_columns = _publish_enveloped = _has_shards = publish_many

    def publish_part(self, part: Part) -> None:
        """Collect the messages of a part; small parts are merged later.

        The publishing methods of Records call this.

        Args:
            part: the messages that the handler publishes by one call.

        Raises:
            UsageError: there is no such exchange, it has shards and there is no key, or the handler
                has returned.
            ValueError: an option is out of its limits.

        """
        exchange = part.exchange
        envelope = envelope_of(part.options) if part.options else None
        if part.lacks_key:
            part.key = without_key(exchange, has_shards=self._shards(exchange) > 0)
        if exchange not in self._parts_by_exchange:
            self._shards(exchange)  # so that an unknown name raises an error in this call
            self._parts_by_exchange[exchange] = []
        if envelope is not None:
            self._flush(exchange)  # the messages of earlier parts must be sent first
            self._collect(exchange, part.pack(self._derive_ids(exchange, part.causes)), envelope)
            return
        for piece in part.split(self._max_at_once):
            self._parts_by_exchange[exchange].append(piece)
            self._counts[exchange] += len(piece)
            if self._counts[exchange] >= self._max_at_once:
                self._flush(exchange)

    def flush(self) -> None:
        """Pass to `collect` the messages that are not packed yet, and refuse calls from now on.

        `collect` is the function that receives the records to send. feedbus calls this method after
        each call of the handler. Later calls of publishing methods raise UsageError.
        """
        for exchange in self._parts_by_exchange:
            self._flush(exchange)
        self._parts_by_exchange.clear()
        self._shards = refuse_late  # publish_part() calls _shards() before it collects messages

    def causes(self, indexes: Iterable[int]) -> set[int]:
        """Return those of the given records for which messages were published.

        feedbus calls this after flush().

        Args:
            indexes: the indexes of the records in the batch.

        """
        counts = self._message_counts.values()
        return {index for index in indexes if any(index in caused for caused in counts)}

    def _flush(self, exchange: str) -> None:
        parts, self._parts_by_exchange[exchange] = self._parts_by_exchange[exchange], []
        self._counts[exchange] = 0
        if not parts:
            return
        causes = [part.causes for part in parts]
        ids = self._derive_ids(exchange, causes[0] if len(parts) == 1 else list(chain(*causes)))
        for pack in merge(parts, ids, self._shards(exchange)):
            self._collect(exchange, pack)

    def _derive_ids(self, exchange: str, causes: Sequence[int]) -> Ids:
        """Return the ids of messages for an exchange, derived from the records that cause them.

        Args:
            exchange: the name of the exchange.
            causes: a list with one item for each message: the index, in the batch, of the record
                that causes the message.

        """
        if self._parents is None:
            self._parents = _join(_ids_of_runs(self._records.batch))
        origins, ordinals = self._parents.origins, self._parents.ordinals or ()
        new_ordinals: Sequence[int]
        caused = self._message_counts[exchange]
        if caused.keys().isdisjoint(causes) and len(set(causes)) == len(causes):
            caused.update(causes)
            # Each of these records causes one message, its first for this exchange. So the message
            # is child 0 of the record, and has twice the ordinal of the record: see
            # child_ordinals().
            new_ordinals = [2 * ordinal for ordinal in pick(ordinals, causes)]
        else:
            new_ordinals = []
            for cause, run in groupby(causes):
                count = len(list(run))
                new_ordinals += child_ordinals(ordinals[cause], caused[cause], count)
                caused[cause] += count
        new_origins: str | Sequence[str]
        if isinstance(origins, str):
            new_origins = derive_origin(self._queue, exchange, origins)
        else:
            origins_of_causes = pick(origins, causes)
            derived = {
                one: derive_origin(self._queue, exchange, one) for one in set(origins_of_causes)
            }
            new_origins = [derived[origin] for origin in origins_of_causes]
        if max(new_ordinals, default=0) > MAX_ORDINAL:
            ids = Ids(new_origins, new_ordinals)
            return self._shorten(exchange, self._parents.select(causes), ids)
        return Ids(new_origins, new_ordinals)

    def _shorten(self, exchange: str, parents: Ids, ids: Ids) -> Ids:
        """Return the ids, but other ids in place of those with an ordinal above MAX_ORDINAL.

        A message id has the form `origin-ordinal`, a text and a number. If the ordinal is too long,
        the message gets an origin of its own, derived from the ordinal, and the ordinal 0. All
        other ids stay unchanged, so they are the same in every batch.

        Args:
            exchange: the name of the exchange.
            parents: for each message, the id of the record that causes it, as _join() returns it.
            ids: the ids of the messages.

        """
        ordinals = ids.ordinals or ()
        origins = [ids.origins] * len(ids) if isinstance(ids.origins, str) else [*ids.origins]
        for index, ordinal in enumerate(ordinals):
            if ordinal > MAX_ORDINAL:
                causes = exchange, parents[index], str(ordinal)
                origins[index] = derive_origin(self._queue, *causes)
        return Ids(origins, [each if each <= MAX_ORDINAL else 0 for each in ordinals])


def _ids_of_runs(batch: Batch) -> list[Ids]:
    """Return the ids of the chunks of a batch, to derive the ids of messages from them.

    A chunk is the records of a batch that came in the same message. If the handler failed after
    messages for these records were sent, the result contains other ids for the records. So the
    messages of this call do not get the ids of the earlier messages. See ChunkDelivery.run.
    """
    ids = [chunk.ids for chunk in batch.chunks]
    for number, delivery in enumerate(batch.deliveries):
        if run := delivery.run:
            origins = ids[number].origins
            ids[number] = Ids(
                derive_origin(origins, str(run))
                if isinstance(origins, str)
                else [derive_origin(origin, str(run)) for origin in origins],
                ids[number].ordinals,
            )
    return ids


def _join(ids: Sequence[Ids]) -> Ids:
    """Join the ids of the records of several chunks, to derive the ids of messages from them.

    A chunk is the records of a batch that came in the same message. An id has the form
    `origin-ordinal`, a text and a number, or has no ordinal, such as `order`. An id without an
    ordinal gets the ordinal 0 and another origin. So the records `order` and `order-0` cause
    messages with different ids. The result is not used as message ids.
    """
    ordinals = list(chain.from_iterable(each.ordinals or (0,) for each in ids))
    parts = [_origins(each) for each in ids]
    first = parts[0] if parts else ""
    if isinstance(first, str) and all(part == first for part in parts):
        return Ids(first, ordinals)
    origins = (
        [part] * len(each) if isinstance(part, str) else part
        for part, each in zip(parts, ids, strict=True)
    )
    return Ids(list(chain.from_iterable(origins)), ordinals)


def _origins(ids: Ids) -> str | Sequence[str]:
    """Return the origins of some ids: one text if all are equal, or one for each id.

    An id has the form `origin-ordinal`. For an id without an ordinal, another origin is derived:
    see _join().
    """
    if ids.ordinals is None and isinstance(ids.origins, str):
        return derive_origin(ids.origins)
    return ids.origins
