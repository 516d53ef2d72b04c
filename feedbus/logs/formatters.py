"""The text format and the JSON format of log lines, and the configuration of a process's log."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from feedbus.logs.event_log import Event, indented
from feedbus.logs.python_warnings import log_warnings
from feedbus.printable import printable_json

TEXT, JSON = "text", "json"
LOG_FORMATS = (TEXT, JSON)
FOREIGN = "log"  # the name of the event of lines that libraries and handlers log


class TextFormatter(logging.Formatter):
    """Formats a log record as `TIME LEVEL event=… consumer=… key=value … message="…"`.

    A process has one TextFormatter object, if [logging] format is "text".
    """

    def __init__(self, context: Mapping[str, Any] | None = None) -> None:
        """Create the formatter with fields that are added to each line that does not have them."""
        super().__init__()
        self.context = dict(context or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a log record, followed by its traceback in indented lines."""
        event = event_of(record)
        line = f"{_time(record)} {record.levelname} {event.text(self.context)}"
        more = _more(self, record, event)
        return f"{line}\n{indented(more)}" if more else line


class JsonFormatter(logging.Formatter):
    """Formats a log record as one JSON object on one line.

    A process has one JsonFormatter object, if [logging] format is "json".
    """

    def __init__(self, context: Mapping[str, Any] | None = None) -> None:
        """Create the formatter with fields that are added to each line that does not have them."""
        super().__init__()
        self.context = dict(context or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON text of a log record; its key `detail` has the traceback or stack."""
        event = event_of(record)
        found = {"time": _time(record), "level": record.levelname, **event.pairs(self.context)}
        found["message"] = event.message
        more = _more(self, record, event)
        if more:
            found["detail"] = more
        return printable_json(
            {key: value if _is_json(value) else str(value) for key, value in found.items()}
        )


def formatter_of(log_format: str, context: Mapping[str, Any] | None = None) -> logging.Formatter:
    """Return the formatter of a log format.

    Args:
        log_format: "text" or "json".
        context: fields that are added to each line that does not have them; None for none.

    """
    return JsonFormatter(context) if log_format == JSON else TextFormatter(context)


def configure(log_format: str, *, stream: TextIO | None = None, **context: Any) -> None:
    """Configure the log of this process: its format, its level INFO, and Python's warnings.

    Each process of feedbus calls the function at its start.

    Args:
        log_format: `text` or `json`.
        stream: the output, stderr by default.
        context: fields of every line of this process, such as `consumer="mail"`.

    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter_of(log_format, context))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # waitress logs each request that waits for a thread; this is not useful.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # amqp logs each delivery that arrives while its channel is closed. The broker delivers it
    # again, so nobody has to act.
    logging.getLogger("amqp").addFilter(_is_useful)  # adds it once, also if it is called again
    log_warnings()


def _is_useful(record: logging.LogRecord) -> bool:
    return "during closing channel" not in str(record.msg)


def change_format(log_format: str) -> None:
    """Change the format of this process's log, after `feedbus apply` with another topology.

    Args:
        log_format: "text" or "json".

    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, TextFormatter | JsonFormatter):
            handler.setFormatter(formatter_of(log_format, handler.formatter.context))


def log_line(log_format: str, level: int, event: Event) -> str:
    """Return the log line of an event, with the present time.

    It is for programs that write a log file without the loggers and handlers of `logging`.

    Args:
        log_format: the format of the line, `text` or `json`.
        level: the level of the event, such as logging.INFO.
        event: the event.

    """
    record = logging.LogRecord("feedbus", level, "", 0, event, (), None)
    return formatter_of(log_format).format(record)


def event_of(record: logging.LogRecord) -> Event:
    """Return the event of a log record; a record of another library becomes the event `log`.

    Formatters call the function for each record.
    """
    if isinstance(record.msg, Event):
        return record.msg
    return Event(FOREIGN, record.getMessage(), {"logger": record.name})


def _time(record: logging.LogRecord) -> str:
    # isoformat() imports nothing, unlike strftime(), so it works while the interpreter ends.
    created_at = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
    return f"{created_at.isoformat(timespec='milliseconds')}Z"


def _more(formatter: logging.Formatter, record: logging.LogRecord, event: Event) -> str:
    """Return the further lines of a record: its stack or its traceback."""
    found = [event.detail] if event.detail else []
    if record.exc_info and record.exc_info[0] is not None:
        found.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        found.append(record.stack_info)
    return "\n".join(found)


def _is_json(value: Any) -> bool:
    """Whether JSON can represent a value; False for NaN and infinite numbers."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)
