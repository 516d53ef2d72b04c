"""Publish records: at once from outside a handler, after the commit from inside one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feedbus.bus.interface import Bus

if TYPE_CHECKING:
    from feedbus.bus.live import LiveBus

__all__ = ["Bus", "LiveBus"]


def __getattr__(name: str) -> Any:
    """Import LiveBus when first asked for: handlers name Bus, which needs no broker library."""
    if name != "LiveBus":
        msg = f"module 'feedbus.bus' has no attribute '{name}'"
        raise AttributeError(msg)
    from feedbus.bus.live import LiveBus

    return LiveBus
