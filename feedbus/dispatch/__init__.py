"""Deliveries and a handler make verdicts."""

from feedbus.dispatch.dispatch import Dispatch

__all__ = ["Dispatch"]
