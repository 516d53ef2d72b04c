"""The wire format between feedbus and a broker: header names, content types, messages."""

from feedbus.wire.delivery import Delivery
from feedbus.wire.outgoing_message import Outgoing

__all__ = ["Delivery", "Outgoing"]
