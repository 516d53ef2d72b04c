"""Decode deliveries, call the handlers, and determine the verdict of each record."""

from feedbus.dispatch.dispatch import Dispatch

__all__ = ["Dispatch"]
