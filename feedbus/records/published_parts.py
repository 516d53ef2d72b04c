"""Parts: messages that a batch handler publishes, each with the record that causes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from feedbus.errors import UsageError
from feedbus.records.ids import Ids
from feedbus.records.key_texts import plain_keys
from feedbus.records.packs import Pack
from feedbus.records.publish_arguments import NO_KEY, copied_list, is_list
from feedbus.wire.message_options import PublishOptions
from feedbus.wrong_argument import refuse

COLUMN = "a field's name or a list of values"


@dataclass(slots=True, eq=False)  # not frozen: that takes longer, and each call creates a Part
class Part:
    """The messages that one call in a batch handler publishes.

    The publishing methods of Records create it, and pass it to the bus.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        key: the routing key of all messages, or a list with one for each. If the caller gave no
            key, it is NO_KEY at first. The PartPublisher then checks that the exchange needs no
            key, and sets it to "".
        key_column: instead of key, the name of the column that contains the routing keys.
        columns: maps each field to a list with one value per message.
        shared: maps each field to the value that all messages have.
        causes: a list with one item for each message: the index of the record that causes it.
        options: the options of publish(); if there are any, each message is sent separately,
            without packs.

    """

    exchange: str
    key: str | Sequence[str]
    key_column: str | None
    columns: Mapping[str, Sequence[Any]]
    shared: Mapping[str, Any]
    causes: Sequence[int]
    options: PublishOptions | None = None

    def __len__(self) -> int:
        """Count the messages."""
        return len(self.causes)

    def check(self) -> Part:
        """Check the arguments of the call, and return the part itself.

        Keys of a subclass of str become texts of the type str: see plain_keys().

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: the lists differ in length, key_column names no column, or both key and
                key_column are given.

        """
        if not isinstance(self.exchange, str):
            refuse("exchange", "str", self.exchange)
        if type(self.key) is not str and self.key is not NO_KEY:
            self.key = _plain_key(self.key)
        if self.key_column is not None and not isinstance(self.key_column, str):
            refuse("key_column", "str or None", self.key_column)
        count = len(self.causes)
        for name, values in self.columns.items():
            if not is_list(values):
                refuse(f"columns[{name!r}]", COLUMN, values)
            if len(values) != count:
                raise UsageError(_count_error(f"columns[{name!r}]", values, count))
        if self.key_column is not None:
            if self.key_column not in self.columns or self.key != "":
                known_names = ", ".join(self.columns) or "none"
                msg = (
                    f"key_column: expected the name of a column ({known_names}) without a key,"
                    f" got {self.key_column!r} and the key {self.key!r}"
                )
                raise UsageError(msg)
        elif not isinstance(self.key, str) and len(self.key) != count:
            raise UsageError(_count_error("key", self.key, count))
        return self

    def copy_lists(self) -> None:
        """Copy the lists of the part, because it is sent later, and the caller may change them."""
        self.columns = {name: copied_list(values) for name, values in self.columns.items()}
        if not isinstance(self.key, str):
            self.key = copied_list(self.key)

    def split(self, max_messages: int) -> Iterator[Part]:
        """Split the messages, in order, into parts of similar sizes, each up to max_messages.

        The bus of a batch handler calls this, so that packs do not become too large.

        Args:
            max_messages: the largest number of messages in a part.

        """
        count = len(self)
        if count <= max_messages:
            yield self
            return
        size = -(-count // -(-count // max_messages))
        for start in range(0, count, size):
            part_range = slice(start, start + size)
            key = self.key if isinstance(self.key, str) else self.key[part_range]
            columns = {name: values[part_range] for name, values in self.columns.items()}
            yield replace(self, key=key, columns=columns, causes=self.causes[part_range])

    @property
    def lacks_key(self) -> bool:
        """Whether the caller has given no routing key."""
        return self.key is NO_KEY and self.key_column is None

    @property
    def keys_or_column(self) -> Sequence[str] | str:
        """The routing key of each message, or the name of the column that contains them."""
        if self.key_column is not None:
            return self.key_column
        return [self.key] * len(self) if isinstance(self.key, str) else self.key

    def pack(self, ids: Ids) -> Pack:
        """Return a pack of the messages, with these ids.

        Args:
            ids: the ids of the messages, in order.

        """
        return Pack(ids, self.keys_or_column, self.shared, self.columns)


def check_fields(columns: object, shared: object, *, needs_columns: bool = False) -> None:
    """Check that the arguments `columns` and `shared` are mappings or None.

    The publishing methods of Records call this.

    Args:
        columns: the argument `columns` of the method.
        shared: the argument `shared` of the method.
        needs_columns: whether `columns` must not be None.

    Raises:
        TypeError: an argument is anything else.

    """
    if (needs_columns or columns is not None) and not _is_mapping(columns):
        refuse("columns", f"a mapping of fields (for each field: {COLUMN})", columns)
    if shared is not None and not _is_mapping(shared):
        refuse("shared", "a mapping of fields to values", shared)


class PartPublisher(Protocol):
    """Receives the messages that a batch handler publishes: the bus of the handler."""

    def publish_part(self, part: Part) -> None:
        """Publish the messages of a part, in order.

        The publishing methods of Records call this.

        Args:
            part: the messages of one call.

        """


# A check against an abstract class takes ten times as long as a comparison of types. So the usual
# type is compared first, here or by the caller.


def _is_mapping(fields: object) -> bool:
    return type(fields) is dict or isinstance(fields, Mapping)


def _plain_key(key: str | Sequence[str]) -> str | Sequence[str]:
    if isinstance(key, str):
        return str.__str__(key)
    if not is_list(key):
        refuse("key", "str, or a list with one for each message", key)
    return plain_keys(key)


def _count_error(name: str, values: Sequence[Any], count: int) -> str:
    return f"{name}: expected {count} values, one for each message, got {len(values)}"
