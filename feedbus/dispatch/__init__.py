"""Dispatch: deliveries are decoded and passed to the handler, and their verdicts are determined."""

from feedbus.dispatch.dispatch import Dispatch

__all__ = ["Dispatch"]
