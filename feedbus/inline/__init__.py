"""Run a whole topology within one thread: its broker is in memory, its consumers take turns."""

from feedbus.inline.projects import Project
from feedbus.inline.system import InlineSystem, NeverDone

__all__ = ["InlineSystem", "NeverDone", "Project"]
