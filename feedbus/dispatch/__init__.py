"""Dispatch: deliveries are decoded, given to the handler, and get verdicts."""

from feedbus.dispatch.dispatch import Dispatch

__all__ = ["Dispatch"]
