"""The values that parameters of handlers, dead handlers, resources and middleware can request."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.handling.annotations import name_of

# The annotation of a parameter can be a class with this attribute. The attribute contains the name
# of the value that the parameter gets.
ASKED_FOR = "__feedbus_parameter__"
BUS, SESSION, MESSAGE, TOPOLOGY = "bus", "session", "message", "topology"
DEAD_LETTER = "dead_letter"
UNANNOTATED = (inspect.Parameter.empty, Any, object)  # annotations that name no type
# How a parameter for each value is written, for errors.
SHOWN = {
    BUS: "bus: Bus",
    DEAD_LETTER: "letter: DeadLetter",
    MESSAGE: "message: Message",
    TOPOLOGY: "topology: Topology",
}


class Given:
    """The values that the parameters of a handler can get in one call.

    Args:
        bus: the bus of the call.
        session: the session of the store's transaction; None if there is none.
        records: the Records of the call; the message of a record is created on demand.
    """

    __slots__ = ("bus", "records", "session")

    def __init__(self, bus: Any, session: Any, records: Any) -> None:
        """Create the object with the values that every call has.

        Args:
            bus: collects what the handler publishes.
            session: the session of the store's transaction; None if there is no transaction.
            records: the Records that are handled; a single record is a batch of one.

        """
        self.bus = bus
        self.session = session
        self.records = records

    @property
    def message(self) -> Any:
        """The Message of the record; only for a function that gets a single record."""
        return self.records.messages[0]


class GivenDeadLetter(Given):
    """The values that the parameters of a dead handler can get in one call.

    Args:
        bus: the bus of the call.
        session: the session of the store's transaction; None if there is none.
        records: the Records with the record of the dead letter.
        dead_letter: the DeadLetter.
    """

    __slots__ = ("dead_letter",)

    def __init__(self, bus: Any, session: Any, records: Any, dead_letter: Any) -> None:
        """Create the object for one call of a dead handler.

        Args:
            bus: collects what the dead handler publishes.
            session: the session of the store's transaction; None if there is no transaction.
            records: Records with the failed record.
            dead_letter: the DeadLetter.

        """
        super().__init__(bus, session, records)
        self.dead_letter = dead_letter


@dataclass(frozen=True, slots=True)
class Offer:
    """The values that functions of one kind, such as handlers, can request besides resources.

    Attributes:
        names: the names of the values, such as "bus". The session is not among them, because it is
            requested by its type.
        session_type: the type of the store's session; None if there is no store.
        refused: values that functions of this kind cannot request. Maps the name of each value to
            the text of an error, which says what to write instead.
    """

    names: tuple[str, ...]
    session_type: type | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def to_handlers(cls, session_type: type | None = None, *, batch: bool = False) -> Offer:
        """Return the values that a handler can request.

        Args:
            session_type: the type of the store's session; None if there is no store.
            batch: whether the handler takes Records.

        """
        if batch:
            instead = "records.messages: each record of a batch has a message of its own"
            return cls((BUS,), session_type, {MESSAGE: instead})
        return cls((BUS, MESSAGE), session_type)

    @classmethod
    def to_dead_handlers(cls, session_type: type | None) -> Offer:
        """Return the values that a dead handler can request.

        Args:
            session_type: the type of the store's session; None if there is no store.

        """
        return cls((BUS, MESSAGE, DEAD_LETTER), session_type)

    @property
    def expected(self) -> str:
        """The values that can be requested, also resources, as a text for errors."""
        sessions = [] if self.session_type is None else [f"a {name_of(self.session_type)}"]
        shown = [*(SHOWN[name] for name in self.names), *sessions, "the value of a resource"]
        return f"{', '.join(shown)}, or a default"


OPENING = Offer((TOPOLOGY,))  # for functions of resources, and constructors of middleware
