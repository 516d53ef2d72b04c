"""The records that are handled at the same time, and the results of their calls."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from feedbus.dispatch.decoder import Decoded, Fault
from feedbus.dispatch.publications import Publications
from feedbus.dispatch.wrapped_handlers import Callee
from feedbus.records import Records


@dataclass(slots=True)
class Part:
    """A delivery, with the number of its records that are not finished."""

    opened: Decoded
    left: int = 0


@dataclass(slots=True, eq=False)
class Work:
    """A record that a handler must handle, and the result of its call."""

    key: Hashable
    part: Part
    row: int
    callee: Callee
    records: Records
    started_at: float = 0.0
    seconds: float = 0.0
    publications: Publications | None = None
    error: BaseException | None = None
    ended: bool = False
    judged: bool = False
    known_slow: bool = False

    @property
    def message_id(self) -> str:
        """The id of the message that contained the record."""
        return self.part.opened.delivery.message_id


@dataclass(slots=True, eq=False)
class Turn:
    """A fault that waits until the earlier records of its key have ended."""

    key: Hashable
    part: Part
    fault: Fault
