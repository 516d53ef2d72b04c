"""The interface of the objects that validate and load records, one class per kind of type.

To load a record is to create the object that a handler gets, from the decoded fields of the record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from feedbus.errors import Outage, described
from feedbus.name_list import nearest
from feedbus.printable import shortened
from feedbus.records.attribute_columns import Attributes
from feedbus.records.batch import Chunk
from feedbus.records.packs import Pack

Reads = Literal["object", "text", "bytes"]
UNKNOWN_COMPARED = (
    100  # at most this many unknown fields of a record are compared with missing ones
)
# The errors of the invalid records of a pack; see Loaded.
Errors = dict[int, dict[str, list[str]]]


class UnfitMessageType(TypeError):  # noqa: N818 -- clear without "Error"
    """A type cannot be used as a message type; the class of the type's loader raises it.

    Attributes:
        expected: a description of the possible message types.
        got: the given object.
        advice: what to write; "" for no advice.
    """

    def __init__(self, expected: str, got: str, advice: str = "") -> None:
        """Create the error with the expected and the given type, and what to write."""
        self.expected, self.got, self.advice = expected, got, advice
        super().__init__(f"expected {expected}, got {got}{f'; {advice}' if advice else ''}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading a pack: its valid records, and the errors of its invalid records.

    Attributes:
        chunk: the valid records.
        errors: maps the index of an invalid record in the pack to the errors of this record. They
            are a mapping of field names to lists of texts. The name "" stands for the whole record.
    """

    chunk: Chunk
    errors: Errors


class RecordLoader(ABC):
    """Validates the records of one message type, and creates the objects that a handler gets.

    Each handler of a process has one loader for its message type.

    Attributes:
        reads: how the body of a message is decoded for this type, if there is no codec of the
            project. "object" means a mapping of fields, "text" a str, and "bytes" bytes.
    """

    reads: Reads = "object"

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the message type, or "" if it has none; the AsyncAPI document contains it."""

    @abstractmethod
    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one record on the wire; its definitions are in `$defs`."""

    @abstractmethod
    def wire_fields(self) -> Sequence[str] | None:
        """Return the names of the fields in the body of a message.

        Fields that the type ignores are left out. The result is None if the type accepts fields
        whose names are not known. `feedbus check` uses the names to check the option order_by.
        """

    def load(self, pack: Pack) -> Loaded:
        """Validate and load the records of a pack, before the handler is called.

        The result is the same as if the records were loaded one by one, with two exceptions. A
        value that the records of a pack share can be the same object in all of them. A field that a
        hook of a marshmallow schema adds to some records only is None in the others.

        Args:
            pack: the decoded records.

        Returns:
            The valid records, and the errors of the others. The error of a missing field names an
            unknown field of the record with a similar name, because it may be misspelt.
        """
        loaded = self._load(pack)
        known_fields = self.wire_fields() if loaded.errors else None
        if known_fields is not None:
            _suggest(loaded.errors, pack, known_fields)
        return loaded

    @abstractmethod
    def _load(self, pack: Pack) -> Loaded:
        """Validate and load the records of a pack; load() adds suggestions to the errors."""


def _suggest(errors: Errors, pack: Pack, known_fields: Sequence[str]) -> None:
    """Add similar unknown fields of the records to the errors of missing fields.

    Args:
        errors: the errors of the records of the pack.
        pack: the records. All records of a pack have the same fields.
        known_fields: the names of the fields of the message type.

    """
    given = [*pack.shared, *pack.columns]
    unknown = [field for field in given if field not in known_fields][:UNKNOWN_COMPARED]
    for field in set(known_fields).difference(given) if unknown else ():
        similar = nearest(field, unknown)
        for by_field in errors.values() if similar else ():
            if field in by_field:
                by_field[field] = [
                    *by_field[field],
                    f"(got the unknown field '{shortened(similar, 60)}': did you mean '{field}'?)",
                ]


def errors_of(error: BaseException) -> dict[str, list[str]]:
    """Return the errors of a record whose validator has raised an exception, under the key "".

    Args:
        error: the exception.

    Raises:
        Outage: the validator raised it. The record may be valid.
        KeyboardInterrupt: the validator raised it.
    """
    if isinstance(error, Outage | KeyboardInterrupt):
        raise error
    if isinstance(error, RecursionError):
        return {"": ["nested too deeply"]}
    return {"": [described(error)]}


def loaded_rows(
    pack: Pack, rows: Mapping[int, Any], names: Sequence[str], errors: Errors
) -> Loaded:
    """Return the Loaded object of records that were loaded one by one.

    Args:
        pack: the loaded pack.
        rows: maps the index of each valid record in the pack to the loaded object.
        names: the names of the attributes that each of these objects has.
        errors: the errors of the other records.

    """
    indexes, instances = list(rows), list(rows.values())
    ids = pack.ids if len(indexes) == len(pack) else pack.ids.select(indexes)
    columns = Attributes(instances, names)
    return Loaded(Chunk(ids, {}, columns, indexes, instances=instances), errors)
