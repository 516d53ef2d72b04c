"""The bus publishes records: at once, or in handlers and transactions after the commit."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from feedbus.bus.interface import Bus

if TYPE_CHECKING:
    from feedbus.bus.async_bus import AsyncBus
    from feedbus.bus.connect_functions import connect, connect_async
    from feedbus.bus.live_bus import LiveBus

__all__ = ["AsyncBus", "Bus", "LiveBus", "connect", "connect_async"]

# These names are imported at their first use. Modules of handlers import only Bus, which needs no
# broker library.
HOMES = {
    "AsyncBus": "feedbus.bus.async_bus",
    "LiveBus": "feedbus.bus.live_bus",
    "connect": "feedbus.bus.connect_functions",
    "connect_async": "feedbus.bus.connect_functions",
}

if not TYPE_CHECKING:  # a type checker that sees __getattr__ accepts every name

    def __getattr__(name: str) -> Any:
        """Import a public name from the module that defines it."""
        if name not in HOMES:
            msg = f"module 'feedbus.bus' has no attribute '{name}'"
            raise AttributeError(msg)
        return getattr(import_module(HOMES[name]), name)
