"""The wire format: header names, content types, and messages as the broker carries them."""

from feedbus.wire.delivery import Delivery
from feedbus.wire.outgoing_message import Outgoing

__all__ = ["Delivery", "Outgoing"]
