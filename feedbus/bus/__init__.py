"""Publish records: at once from outside a handler, after the commit from inside one."""

from feedbus.bus.interface import Bus
from feedbus.bus.live import LiveBus

__all__ = ["Bus", "LiveBus"]
