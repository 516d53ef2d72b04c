"""Run a whole topology in one thread, with a broker in memory."""

from feedbus.inline.loaded_projects import Project
from feedbus.inline.system import InlineSystem, NeverDone
from feedbus.inline.system_pool import InlinePool

__all__ = ["InlinePool", "InlineSystem", "NeverDone", "Project"]
