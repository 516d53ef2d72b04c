"""Log lines: events with a name, fields and a message, in text or JSON."""

from feedbus.logs.event_log import Event, EventLog
from feedbus.logs.formatters import (
    JSON,
    LOG_FORMATS,
    TEXT,
    change_format,
    configure,
    event_of,
    formatter_of,
    log_line,
)

__all__ = [
    "JSON",
    "LOG_FORMATS",
    "TEXT",
    "Event",
    "EventLog",
    "change_format",
    "configure",
    "event_of",
    "formatter_of",
    "log_line",
]
