"""Run a whole topology within one thread: its broker is in memory, its consumers take turns."""

from feedbus.inline.pool import InlinePool
from feedbus.inline.projects import Project
from feedbus.inline.system import InlineSystem, NeverDone

__all__ = ["InlinePool", "InlineSystem", "NeverDone", "Project"]
