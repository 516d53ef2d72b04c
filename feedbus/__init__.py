"""feedbus: message topologies in one TOML file.

What a project that uses feedbus imports: the bus, the handler mark, records and verdicts.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own, without its import: this runs before Ctrl-C is arranged for
if TYPE_CHECKING:
    from typing import Any

    from feedbus.bus import Bus
    from feedbus.errors import Drop, FeedbusError, Outage, PublishError, Reject, Retry, Unroutable
    from feedbus.handling import handler
    from feedbus.records import Records

# Imported when first asked for: `feedbus check` needs no broker library.
HOMES = {
    "Bus": "feedbus.bus",
    "Drop": "feedbus.errors",
    "FeedbusError": "feedbus.errors",
    "Outage": "feedbus.errors",
    "PublishError": "feedbus.errors",
    "Records": "feedbus.records",
    "Reject": "feedbus.errors",
    "Retry": "feedbus.errors",
    "Unroutable": "feedbus.errors",
    "handler": "feedbus.handling",
}

__all__ = [
    "Bus",
    "Drop",
    "FeedbusError",
    "Outage",
    "PublishError",
    "Records",
    "Reject",
    "Retry",
    "Unroutable",
    "handler",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in HOMES:
        msg = f"module 'feedbus' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(import_module(HOMES[name]), name)
