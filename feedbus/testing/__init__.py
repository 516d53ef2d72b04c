"""Tools for tests of projects: a system in memory, a bus that records, and Records from dicts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feedbus.dead_letters.letters import DeadLetter
    from feedbus.records import Records
    from feedbus.testing.observations import Handled, Published
    from feedbus.testing.recording_bus import RecordingBus
    from feedbus.testing.system import TestSystem

__all__ = ["DeadLetter", "Handled", "Published", "RecordingBus", "Records", "TestSystem"]

# The module of each public name. The module is imported at the first use of the name. pytest loads
# the plugin wherever feedbus is installed, so an earlier import would slow down all tests there.
HOMES = {
    "DeadLetter": "feedbus.dead_letters.letters",
    "Handled": "feedbus.testing.observations",
    "Published": "feedbus.testing.observations",
    "Records": "feedbus.records",
    "RecordingBus": "feedbus.testing.recording_bus",
    "TestSystem": "feedbus.testing.system",
}

if not TYPE_CHECKING:  # with __getattr__, a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Return a public name of this package, such as a class; import its module first.

        Python calls the function when it does not find the name in this module.
        """
        if name not in HOMES:
            msg = f"module 'feedbus.testing' has no attribute '{name}'"
            raise AttributeError(msg)
        return getattr(import_module(HOMES[name]), name)
