"""feedbus: message topologies in one TOML file.

The names that projects import: the bus, the decorator of handlers, records and verdicts.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.2.0"

TYPE_CHECKING = False  # typing is not imported here, because that takes long
if TYPE_CHECKING:
    from typing import Any

    from feedbus.bus import AsyncBus, Bus, LiveBus, connect, connect_async
    from feedbus.dead_letters.letters import DeadLetter
    from feedbus.errors import (
        BrokerOutage,
        Drop,
        FeedbusError,
        Outage,
        PublishError,
        Reject,
        Retry,
        UnexpectedResult,
        Unroutable,
        UsageError,
    )
    from feedbus.handling.handlers import handler
    from feedbus.handling.middleware import Call, Middleware
    from feedbus.handling.parameters import resource
    from feedbus.records import Records
    from feedbus.records.message import Message
    from feedbus.records.raw_payload import Raw

# The module that defines each public name. The module is imported at the first use of the name, so
# that commands such as `feedbus check` do not import a broker library.
HOMES = {
    "AsyncBus": "feedbus.bus",
    "BrokerOutage": "feedbus.errors",
    "Bus": "feedbus.bus",
    "Call": "feedbus.handling.middleware",
    "DeadLetter": "feedbus.dead_letters.letters",
    "Drop": "feedbus.errors",
    "FeedbusError": "feedbus.errors",
    "LiveBus": "feedbus.bus",
    "Message": "feedbus.records.message",
    "Middleware": "feedbus.handling.middleware",
    "Outage": "feedbus.errors",
    "PublishError": "feedbus.errors",
    "Raw": "feedbus.records.raw_payload",
    "Records": "feedbus.records",
    "Reject": "feedbus.errors",
    "Retry": "feedbus.errors",
    "UnexpectedResult": "feedbus.errors",
    "Unroutable": "feedbus.errors",
    "UsageError": "feedbus.errors",
    "connect": "feedbus.bus",
    "connect_async": "feedbus.bus",
    "handler": "feedbus.handling.handlers",
    "resource": "feedbus.handling.parameters",
}

__all__ = [
    "AsyncBus",
    "BrokerOutage",
    "Bus",
    "Call",
    "DeadLetter",
    "Drop",
    "FeedbusError",
    "LiveBus",
    "Message",
    "Middleware",
    "Outage",
    "PublishError",
    "Raw",
    "Records",
    "Reject",
    "Retry",
    "UnexpectedResult",
    "Unroutable",
    "UsageError",
    "__version__",
    "connect",
    "connect_async",
    "handler",
    "resource",
]

if not TYPE_CHECKING:  # with __getattr__, a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Import a public name from the module that defines it."""
        if name not in HOMES:
            msg = f"module 'feedbus' has no attribute '{name}'"
            raise AttributeError(msg)
        return getattr(import_module(HOMES[name]), name)
