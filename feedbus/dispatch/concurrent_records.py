"""The records that are handled at the same time, and the results of their calls."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from feedbus.dispatch.decoded_deliveries import Decoded, InvalidRecord
from feedbus.dispatch.publications import Publications
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.records import Records


@dataclass(slots=True, eq=False)
class UnfinishedDelivery:
    """A delivery, and the number of its unfinished records.

    Attributes:
        opened: the delivery.
        number: the position of the delivery in the order of arrival.
        left: how many of its records are unfinished.
        failed_keys: the keys of its records that have failed, or that wait for a failed record.

    """

    opened: Decoded
    number: int
    left: int = 0
    failed_keys: set[Hashable] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Work:
    """A record that a handler must handle, and the result of its call."""

    key: Hashable
    delivery: UnfinishedDelivery
    row: int
    wrapped: WrappedHandler
    records: Records
    started_at: float = 0.0
    seconds: float = 0.0
    publications: Publications | None = None
    error: BaseException | None = None
    ended: bool = False
    classified: bool = False
    known_slow: bool = False

    @property
    def message_id(self) -> str:
        """The id of the message that contained the record."""
        return self.delivery.opened.delivery.message_id


@dataclass(slots=True, eq=False)
class DeferredInvalidRecord:
    """An invalid record that waits until the earlier records of its key have ended."""

    key: Hashable
    delivery: UnfinishedDelivery
    record: InvalidRecord
