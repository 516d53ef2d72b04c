"""Deliveries and a handler make verdicts."""

from feedbus.dispatch.deliveries import Delivery
from feedbus.dispatch.dispatch import Dispatch

__all__ = ["Delivery", "Dispatch"]
