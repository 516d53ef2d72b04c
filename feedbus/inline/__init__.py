"""Run a whole topology within one thread: the broker is in memory, and consumers run one by one."""

from feedbus.inline.loaded_projects import Project
from feedbus.inline.system import InlineSystem, NeverDone
from feedbus.inline.system_pool import InlinePool

__all__ = ["InlinePool", "InlineSystem", "NeverDone", "Project"]
