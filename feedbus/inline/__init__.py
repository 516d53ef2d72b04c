"""Run a whole topology within one thread: the broker is in memory, and consumers run in turn."""

from feedbus.inline.pool import InlinePool
from feedbus.inline.projects import Project
from feedbus.inline.system import InlineSystem, NeverDone

__all__ = ["InlinePool", "InlineSystem", "NeverDone", "Project"]
