"""The order of a queue, and the ordering key of a record (`order_by`).

Records with the same ordering key are handled in the order of their publication. With
`order_by = true`, the key is the routing key. With `order_by = "customer"`, the key is the value of
the field `customer`. While a record waits in a waiting queue, a header of its message contains this
value as JSON: `7` for a number, `"7"` for a text. If the JSON has more than 255 characters, the
header contains the digest of the JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedbus.records.packs import Pack
from feedbus.topology import Queue
from feedbus.wire import Delivery
from feedbus.wire.constants import PACK, SHORT_TEXT_BYTES

MISSING = object()


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one queue.

    Records with the same ordering key are handled in the order of their publication.

    Attributes:
        by_routing_key: whether the ordering key is the routing key (`order_by = true`).
        field: the field that contains the ordering key, by its name in JSON; "" if `order_by` names
            no field.

    """

    by_routing_key: bool
    field: str

    @classmethod
    def of(cls, queue: Queue) -> Order:
        """Return the order that a queue's `order_by` declares.

        Args:
            queue: the queue as the topology declares it.

        """
        named = isinstance(queue.order_by, str)
        return cls(queue.order_by is True, str(queue.order_by) if named else "")

    def key(self, delivery: Delivery, pack: Pack, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`.

        Args:
            delivery: the delivery that contains the record.
            pack: the records of the delivery.
            row: the index of the record in the delivery. The record must have a usable key:
                key_errors() does not contain the index.

        """
        if self.by_routing_key:
            return pack.key(row) if delivery.content_type == PACK else delivery.original_key
        if not self.field:
            return None
        return self._values(pack)[row] if self.field in pack.columns else pack.shared[self.field]

    def keys(self, delivery: Delivery, pack: Pack) -> set[Any]:
        """Return the ordering keys of all records of a delivery.

        A record without a usable key, such as one that lacks the field, has no key in the result.
        Without `order_by`, the only key is None.

        Args:
            delivery: the delivery that contains the records.
            pack: the records of the delivery.

        """
        errors = self.key_errors(pack) if self.field else {}
        return {self.key(delivery, pack, row) for row in range(len(pack)) if row not in errors}

    @property
    def is_ordered(self) -> bool:
        """Whether the queue has `order_by`."""
        return self.by_routing_key or bool(self.field)

    def waiting_key(self, delivery: Delivery, pack: Pack, row: int) -> str:
        """Return a record's ordering key as a text, as the message of a waiting record contains it.

        A routing key is returned unchanged. The value of a field is written as JSON: `7` for a
        number, `"7"` for a text. If the JSON has more than 255 characters, its digest is returned.

        Args:
            delivery: the delivery that contains the record.
            pack: the records of the delivery.
            row: the index of the record in the delivery.

        """
        key = self.key(delivery, pack, row)
        if self.by_routing_key:
            return str(key)
        if isinstance(key, bool | float) and key == int(key):
            key = int(key)  # equal values, such as 1 and 1.0, are one key
        text = json.dumps(key)
        if len(text) <= SHORT_TEXT_BYTES:
            return text
        return hashlib.sha256(text.encode()).hexdigest()

    def key_errors(self, pack: Pack) -> Mapping[int, Mapping[str, Sequence[str]]]:
        """Return why records have no usable ordering key, if `order_by` names a field.

        The decoder makes these records dead letters.

        Args:
            pack: the records of a delivery.

        Returns:
            A mapping from the index of each such record to `{field: [error]}`.

        """
        values = self._values(pack)
        if values is None:
            error = _key_error(pack.shared.get(self.field, MISSING))
            return {row: {self.field: [error]} for row in range(len(pack))} if error else {}
        errors = ((row, _key_error(value)) for row, value in enumerate(values))
        return {row: {self.field: [error]} for row, error in errors if error}

    def _values(self, pack: Pack) -> Any:
        return pack.columns.get(self.field)


def _key_error(value: object) -> str:
    """Return why a value cannot be an ordering key, or "" if it can."""
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return ""
    if value is MISSING:
        got = "a record without it"
    elif value is None:
        got = "null"
    else:  # a codec of the project can return infinity
        got = str(value) if isinstance(value, float) else type(value).__name__
    return f"order_by needs this field: expected a text, a number, true or false, got {got}"
