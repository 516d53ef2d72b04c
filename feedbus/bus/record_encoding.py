"""Encode records as messages: packs for each shard, or plain messages."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from feedbus.broker import timer
from feedbus.broker_names import Names
from feedbus.codecs import BodyEncoder, body_payload, check_no_raw
from feedbus.errors import UsageError
from feedbus.records.ids import Ids
from feedbus.records.key_texts import plain_keys
from feedbus.records.packs import Pack, decode, expands_too_far
from feedbus.records.payloads import BODY_LIMIT_BYTES, Payload, check_size, unencodable_field
from feedbus.records.publish_arguments import as_mappings, check_id, check_keys
from feedbus.ring import Ring
from feedbus.topology import Exchange, Generation, Topology
from feedbus.wire import Outgoing
from feedbus.wire.constants import GENERATION, JSON, PACK, RECORD_COUNT
from feedbus.wire.failed_messages import of_record
from feedbus.wire.message_options import Envelope

ID_DIGITS = 24  # the length of an origin; the message ids have the form `origin-ordinal`


def derive_origin(*causes: str) -> str:
    """Return the beginning of message ids, which depends only on the given texts.

    If a handler is called again for the same records, its messages get the same ids as before.

    Args:
        causes: the texts, such as the ids of the records that cause the messages.

    """
    return hashlib.sha256("\n".join(causes).encode()).hexdigest()[:ID_DIGITS]


def pack_pairs(pairs: Sequence[tuple[Payload, str]], origin: str, *, first: int = 0) -> list[Pack]:
    """Return packs of (payload, routing key) pairs, in order.

    A pack stores the value of a field once if all its records have this value.

    Args:
        pairs: the pairs; adjacent ones with the same field names make one pack.
        origin: the beginning of the message ids; the records are numbered from 0.
        first: the index of the first pair in the argument of publish_many(), for the text of an
            error.

    Raises:
        TypeError: an item is not a pair of a payload and a text.

    """
    try:
        return list(_packs(pairs, origin))
    except (AttributeError, LookupError, TypeError, ValueError):
        # A payload is not a mapping, or a pair is invalid. The check and the conversion take long,
        # so they are made only in this case.
        return list(_packs(as_mappings(pairs, first), origin))


def _packs(pairs: Sequence[tuple[Any, str]], origin: str) -> Iterator[Pack]:
    start = 0
    while start < len(pairs):
        fields = pairs[start][0].keys()
        end = start + 1
        while end < len(pairs) and pairs[end][0].keys() == fields:
            end += 1
        run = pairs[start:end]
        shared: dict[str, Any] = {}
        columns: dict[str, list[Any]] = {}
        for name in fields:
            values = [payload[name] for payload, _ in run]
            first = values[0]
            if all(value is first for value in values) or _all_equal(values):
                shared[name] = first
            else:
                columns[name] = values
        ids = Ids(origin, range(start, end))
        keys = plain_keys([key for _, key in run])
        "".join(keys)  # raises TypeError if one is not a text
        yield Pack(ids, keys, shared, columns)
        start = end


def _all_equal(values: Sequence[Any]) -> bool:
    # 1, 1.0 and True are equal in Python, but not the same JSON. A list or a mapping may contain
    # them, so only texts and integers are compared.
    first = values[0]
    return isinstance(first, str | int) and all(
        type(value) is type(first) and value == first for value in values
    )


class Encoder:
    """Converts records into messages, as packs if the exchange has `pack`.

    A pack contains records of one shard. So the encoder predicts the shard of each record: it
    computes the shard from the routing key and the ring of the exchange. If the exchange has no
    shards, a pack contains records with one routing key.

    Each Sender, which has a connection for publishing, has one Encoder object.
    """

    def __init__(self, topology: Topology) -> None:
        """Create an encoder for the exchanges of a topology.

        Until use_generation() is called for an exchange, the encoder does not know which generation
        is on the broker. It predicts shards by the weights in topology.toml, and makes packs for a
        generation that is never on the broker: see Generation.unconnected(). So the broker returns
        these packs. The sender then reads the state of the ring, and sends the records as plain
        messages.
        """
        self._topology = topology
        self._names = Names(topology)
        self._bodies = BodyEncoder(topology)
        self._rings: dict[str, tuple[Generation, Ring]] = {}

    def use_generation(self, generation: Generation) -> None:
        """From now on, predict the shards of an exchange by this generation of its ring.

        It is called when the state of the ring was read from the broker.

        Args:
            generation: the generation, which names its exchange.

        """
        self._rings[generation.exchange] = (generation, Ring.of(generation.members))

    def selects_shards(self, exchange_name: str) -> bool:
        """Whether the messages of an exchange are divided among shards; True for an unknown name.

        The outbox can have rows for an exchange that is no longer in topology.toml. If the result
        is True, the sender of the rows keeps the order of each key.

        Args:
            exchange_name: the name of the exchange in topology.toml.

        """
        return self._topology.selects_shards(exchange_name)

    def shard_count(self, exchange_name: str) -> int:
        """Return the number of shards of an exchange, or 0 if the exchange has no ring.

        Args:
            exchange_name: the name of the exchange in topology.toml.

        Raises:
            UsageError: there is no such exchange.

        """
        exchange = self._topology.exchange(exchange_name)
        return len(self._ring(exchange.name)[0].members) if exchange.hashed else 0

    def encode(
        self, exchange_name: str, pack: Pack, envelope: Envelope | None = None
    ) -> list[Outgoing]:
        """Return the messages for some records; messages of one key stay in order.

        It is called for each publish, before the messages are sent.

        Args:
            exchange_name: the name of the exchange in topology.toml.
            pack: the records. The messages contain them in packs only if the exchange has `pack`.
            envelope: the checked options of publish(), None if there are none. With options, each
                record gets its own message.

        Raises:
            UsageError: there is no such exchange, or a record cannot be published.

        """
        if envelope is not None:
            return self._encode_with_options(exchange_name, pack, envelope)
        exchange, keys = self._topology.exchange(exchange_name), pack.keys
        check_keys(keys)
        if len(pack) == 1:  # feedbus makes the ids of several records
            check_id(pack.ids[0])
        # The body of a pack has an origin and an ordinal for the id of each record. The id of a
        # record from LiveBus.publish() or outbox.put() usually has no ordinal: then the record
        # becomes a plain message, also on a ring with packs. The ids of records that a handler
        # publishes always have ordinals.
        if exchange.pack < 2 or pack.ids.ordinals is None:  # noqa: PLR2004 -- no packs
            return list(self._encode_plain(exchange, pack, range(len(pack))))
        check_no_raw(exchange, pack.shared)
        check_no_raw(exchange, pack.columns)
        messages: list[Outgoing] = []
        for target, indexes in self._group_by_target(exchange, keys).items():
            # The packs get similar sizes. Otherwise, for example, 2,501 records would make a pack
            # of 2,500 and a pack of one.
            size = -(-len(indexes) // -(-len(indexes) // exchange.pack))
            for start in range(0, len(indexes), size):
                part = indexes[start : start + size]
                # Here, a single record becomes a plain message only if the exchange has no shards.
                # For a shard, it becomes a pack, because a plain message could overtake an earlier
                # pack that is sent together with it, and has records of the same key: if another
                # process has replaced the ring, the broker returns the pack, but it accepts the
                # plain message. Packs reach the ring through the exchange for packs, plain messages
                # through the entry. The plain messages of records without ordinals overtake no
                # pack: SharedSender never sends them together with packs.
                if len(part) == 1 and not exchange.hashed:
                    messages.extend(self._encode_plain(exchange, pack, part))
                else:
                    messages.extend(self._encode_packs(exchange, pack.select(part), target))
        return messages

    def _encode_with_options(self, exchange: str, pack: Pack, envelope: Envelope) -> list[Outgoing]:
        each = (pack.select([index]) for index in range(len(pack)))
        messages = [
            envelope.around(message) for one in each for message in self.encode(exchange, one)
        ]
        milliseconds = envelope.delay_milliseconds
        if milliseconds is None:
            return messages
        target = timer.exchange_target(self._names, exchange)
        return [
            timer.delay_message(self._names, plain, milliseconds, target)
            for message in messages
            # A pack is for the current ring, which may be replaced before the delay is over. So
            # only plain messages are delayed.
            for plain in (self.split_pack(message) if message.content_type == PACK else [message])
        ]

    def for_current_ring(
        self, exchange_name: str, messages: Sequence[Outgoing], envelope: Envelope | None
    ) -> Sequence[Outgoing]:
        """Return messages for the current ring, from messages that were encoded earlier.

        A pack for another generation of the ring is encoded again; other messages are unchanged.

        Args:
            exchange_name: the name of the exchange in topology.toml.
            messages: the result of encode() for some records.
            envelope: the options with which the messages were encoded.

        """
        exchange, current = self._topology.exchange(exchange_name), list[Outgoing]()
        for message in messages:
            if GENERATION in message.headers and (
                message.headers[GENERATION] != self._ring(exchange.name)[0].digest
            ):
                pack = decode(message.body, message.content_type, message.message_id, "")
                current += self.encode(exchange_name, pack, envelope)
            else:
                current.append(message)
        return current

    def outbox_payloads(
        self, exchange_name: str, pack: Pack, messages: Iterable[Outgoing]
    ) -> Iterable[Mapping[str, Any]]:
        """Return the payload that the outbox stores for each of some records.

        Args:
            exchange_name: the name of the exchange in topology.toml.
            pack: the records.
            messages: the result of encode() for the records.

        """
        if self._topology.exchange(exchange_name).content_type is None:
            return map(pack.payload, range(len(pack)))
        # Such an exchange has no packs, so each record has its own message.
        return (body_payload(message.body) for message in messages)

    def split_pack(self, message: Outgoing) -> list[Outgoing]:
        """Return the records of a pack as plain messages for the entry of its exchange.

        It is used when the broker has returned the pack, because the ring has changed.

        Args:
            message: a pack for the queue of one shard.

        """
        exchange = next(
            name for name in self._topology.exchanges if self._names.packs(name) == message.exchange
        )
        pack = decode(message.body, message.content_type, message.message_id, "")
        plain = self._encode_plain(self._topology.exchanges[exchange], pack, range(len(pack)))
        original = of_record(message)  # with the publisher's headers and properties
        return [
            replace(each, headers=original.headers, properties=original.properties)
            for each in plain
        ]

    def _group_by_target(
        self, exchange: Exchange, keys: Sequence[str]
    ) -> Mapping[str, Sequence[int]]:
        """Map each target to the indexes of its records.

        A target is a shard, or a routing key if the exchange has no shards.
        """
        targets = self._ring(exchange.name)[1].route_many(keys) if exchange.hashed else keys
        if len(set(targets)) == 1:
            return {targets[0]: range(len(targets))}
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, target in enumerate(targets):
            groups[target].append(index)
        return groups

    def _ring(self, exchange: str) -> tuple[Generation, Ring]:
        if exchange not in self._rings:
            self.use_generation(self._topology.generation(exchange).unconnected())
        return self._rings[exchange]

    def _encode_packs(self, exchange: Exchange, pack: Pack, target: str) -> Iterator[Outgoing]:
        body = _encode_pack(pack)
        # A consumer refuses a pack whose records together would be too large as plain messages.
        too_large = len(body) > BODY_LIMIT_BYTES or expands_too_far(len(body), pack)
        if too_large and len(pack) > 1:
            middle, end = len(pack) // 2, len(pack)
            for part in (range(middle), range(middle, end)):
                yield from self._encode_packs(exchange, pack.select(part), target)
            return
        check_size(body)
        headers: dict[str, Any] = {RECORD_COUNT: len(pack)}
        name, key = self._names.exchange(exchange.name), target
        if exchange.hashed:
            generation = self._ring(exchange.name)[0]
            headers[GENERATION] = generation.digest
            name = self._names.packs(exchange.name)
            key = self._names.pack_key(generation, target)
        message_id = f"{pack.ids[0]}+"
        labels = (message_id, headers, exchange.name)
        yield Outgoing(name, key, body, PACK, *labels, records=len(pack))

    def _encode_plain(
        self, exchange: Exchange, pack: Pack, indexes: Iterable[int]
    ) -> Iterator[Outgoing]:
        name, content_type = self._names.exchange(exchange.name), exchange.content_type or JSON
        for index in indexes:
            yield Outgoing(
                name,
                pack.key(index),
                self._bodies.encode(exchange, pack.payload(index)),
                content_type,
                pack.ids[index],
                counted_as=exchange.name,
            )


def _encode_pack(pack: Pack) -> bytes:
    """Return the body of a pack."""
    try:
        return pack.encode()
    except (TypeError, ValueError, RecursionError) as error:
        payloads = map(pack.payload, range(len(pack)))
        reason = next(filter(None, map(unencodable_field, payloads)), str(error))
        msg = f"cannot publish: {reason}"
        raise UsageError(msg) from error
