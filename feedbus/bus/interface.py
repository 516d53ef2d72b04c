"""The interface of a bus, in handlers and in programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import NO_KEY, check_record, without_key
from feedbus.records.publish_options import envelope_of
from feedbus.wire.message_options import Envelope, PublishOptions


class Bus(ABC):
    """The interface of a bus, which publishes records.

    A handler gets a bus by a parameter with the annotation Bus. This bus sends messages after the
    commit, or while the handler runs if the queue sets `stream = true`. A batch handler does not
    use a bus: it calls the method publish() of its Records object. A program gets a bus from
    feedbus.connect(). That bus sends messages at once, except in a `with` block of its method
    transaction().
    """

    __feedbus_parameter__ = "bus"  # a parameter of a handler with this annotation gets a Bus

    def publish(
        self, exchange: str, payload: Payload, key: str = NO_KEY, **options: Unpack[PublishOptions]
    ) -> None:
        """Publish one record: in a handler after the commit, in a program at once.

        Args:
            exchange: the name of the exchange in topology.toml.
            payload: the payload of the record.
            key: the routing key. For an exchange with shards it is required, because the key
                selects the shard. key="" is allowed there: all messages with this key go to the
                same shard. Without shards, the key is "" by default.
            options: `headers` maps names to texts, numbers, flags or None. `priority` is a number
                from 0 to 255. `expires` is the time for which the message may wait in a queue.
                `delay` is the time by which feedbus delays the message. Each of these two times is
                a text such as "10m", or a number of seconds.

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: there is no such exchange, the record cannot be encoded, or the exchange has
                shards and there is no key.
            ValueError: an option is out of its limits.

        """
        fields = check_record(exchange, payload, key)
        envelope = envelope_of(options) if options else None
        if key is NO_KEY:
            key = without_key(exchange, has_shards=self._has_shards(exchange))
        if envelope is None:
            self.publish_many(exchange, [(fields, key)])
        else:
            self._publish_enveloped(exchange, fields, key, envelope)

    @abstractmethod
    def _has_shards(self, exchange: str) -> bool:
        """Whether an exchange has shards; raise UsageError if there is no such exchange."""

    @abstractmethod
    def _publish_enveloped(
        self, exchange: str, fields: Mapping[str, Any], key: str, envelope: Envelope
    ) -> None:
        """Publish one record with options; the message contains no other record.

        Args:
            exchange: the name of the exchange in topology.toml.
            fields: the payload of the record.
            key: the routing key.
            envelope: the checked options.

        """

    @abstractmethod
    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Payload, str]],
    ) -> int:
        """Publish (payload, routing key) pairs in order, and return their number.

        Args:
            exchange: the name of the exchange in topology.toml.
            pairs: any iterable of pairs. The bus of a program reads the pairs in groups, and
                only one group is in memory at a time.

        Raises:
            TypeError: an argument has a wrong type, or an item of pairs is not a pair.
            UsageError: there is no such exchange, or a record cannot be encoded.

        """

    @abstractmethod
    def publish_columns(
        self,
        exchange: str,
        columns: Mapping[str, Sequence[Any]],
        keys: Sequence[str] | str,
        *,
        shared: Mapping[str, Any] | None = None,
    ) -> int:
        """Publish records given by column, in order, and return their number.

        Args:
            exchange: the name of the exchange in topology.toml.
            columns: the fields in which the records differ. Each is mapped to a list with one value
                per record.
            keys: a list with one routing key per record, or the name of the column that contains
                the routing keys.
            shared: the other fields. Each is mapped to the value that all records have.

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: columns differ in length, `keys` is a name that no column has, there
                is no such exchange, or a record cannot be encoded.

        """
