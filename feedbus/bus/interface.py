"""What a bus is, inside a handler and outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedbus.bus.arguments import check_record
from feedbus.records.payloads import Payload


class Bus(ABC):
    """Where records are published; exchange names are those of topology.toml.

    In a batch handler records publish by themselves: records.publish(…).
    """

    __feedbus_parameter__ = "bus"  # a handler's parameter with this annotation is given one

    def publish(self, exchange: str, payload: Payload, key: str = "") -> None:
        """Publish one record.

        Raises:
            TypeError: an argument has a wrong type.

        """
        fields = check_record(exchange, payload, key)
        self.publish_many(exchange, [(fields, key)])

    @abstractmethod
    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Payload, str]],
    ) -> int:
        """Publish (payload, routing key) pairs in order and return how many there were.

        Args:
            exchange: as topology.toml names it.
            pairs: any iterable; it is not held as a whole outside a handler.

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
        """Publish records given by column, in order, and return how many there were.

        Args:
            exchange: as topology.toml names it.
            columns: field to one value a record, for the fields in which they differ.
            keys: a routing key a record, or the name of the column whose texts they are.
            shared: field to the value that all of them have.

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: columns differ in length.

        """
