"""Events, and the log to which the modules of feedbus write them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.printable import printable
from feedbus.shortened_tracebacks import user_traceback

# How many calls the standard library's logging goes back, from _write() to the caller of info(),
# warning(), error() or write(). A log record then contains the place of this caller.
STACK_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Event:
    """A named event with a message and fields, for one line of the log.

    An EventLog makes one for each line; a formatter writes it as text or JSON.

    Attributes:
        name: one of feedbus.logs.catalogue.EVENTS.
        message: a sentence: what happened, to which object, and what to do next.
        fields: values to search for; `consumer` is written first.
        detail: further lines, such as a stack.

    """

    name: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""

    def __str__(self) -> str:
        """Return the line in text format without time and level, followed by the detail."""
        return f"{self.text()}\n{indented(self.detail)}" if self.detail else self.text()

    def text(self, context: Mapping[str, Any] | None = None) -> str:
        """Return the event as text for a log line: `event=… consumer=… key=value … message="…"`.

        Args:
            context: fields that the process adds to each event, unless the event has them itself.

        """
        pairs = self.pairs(context) | {"message": self.message}
        return " ".join(f"{key}={_value(value)}" for key, value in pairs.items())

    def pairs(self, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the event's name, the consumer and the other fields, in the order of the log line.

        Args:
            context: fields that the process adds to each event, unless the event has them itself.

        """
        fields = {**(context or {}), **self.fields}
        first = {"consumer": fields.pop("consumer")} if "consumer" in fields else {}
        return {"event": self.name, **first, **fields}


class EventLog:
    """Writes events to a logger of the standard library.

    Each module of feedbus that logs has one EventLog object.

    Example:
        events = EventLog(__name__)
        events.warning("dead_letter", "put into the dead letters", consumer="mail", message_id="a7")

    """

    def __init__(self, name: str) -> None:
        """Create a log that writes to the logger of that name."""
        self._logger = logging.getLogger(name)

    def info(self, event: str, message: str, /, **fields: Any) -> None:
        """Log an event of normal operation.

        Args:
            event: the name of the event, one of feedbus.logs.catalogue.EVENTS.
            message: a sentence.
            fields: values to search for, and `exc_info` and `detail` as in write().

        """
        self._write(logging.INFO, event, message, **fields)

    def warning(self, event: str, message: str, /, **fields: Any) -> None:
        """Log an event that an operator should know about.

        Args:
            event: the name of the event, one of feedbus.logs.catalogue.EVENTS.
            message: a sentence.
            fields: values to search for, and `exc_info` and `detail` as in write().

        """
        self._write(logging.WARNING, event, message, **fields)

    def error(self, event: str, message: str, /, **fields: Any) -> None:
        """Log an event that an operator must act on.

        Args:
            event: the name of the event, one of feedbus.logs.catalogue.EVENTS.
            message: a sentence.
            fields: values to search for, and `exc_info` and `detail` as in write().

        """
        self._write(logging.ERROR, event, message, **fields)

    def write(self, level: int, event: str, message: str, /, **fields: Any) -> None:
        """Log an event with a level that the caller gives.

        Args:
            level: a level of the module logging.
            event: the name of the event, one of feedbus.logs.catalogue.EVENTS.
            message: a sentence.
            fields: values to search for. Two of them are special: `exc_info` is an exception whose
                traceback is logged, without the calls of feedbus before those of the handler;
                `detail` is a text of several lines.

        """
        self._write(level, event, message, **fields)

    def _write(
        self,
        level: int,
        event: str,
        message: str,
        *,
        exc_info: BaseException | None = None,
        detail: str = "",
        **fields: Any,
    ) -> None:
        if self._logger.isEnabledFor(level):
            made = Event(event, message, fields, detail)
            shown = exc_info and (type(exc_info), exc_info, user_traceback(exc_info))
            self._logger.log(level, made, exc_info=shown, stacklevel=STACK_LEVEL)


def indented(text: str) -> str:
    """Return the lines of a text with an indent, so that they cannot be read as lines of events.

    The log has further lines of an event, such as a traceback, in this form.
    """
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))


def _value(value: Any) -> str:
    """Return a value in the text format: in quotes unless it is one word."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not any(each in text for each in " \"'=\\"):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(quoted)}"'
