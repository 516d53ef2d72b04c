"""Circus watchers from a topology: what `feedbus up` and `circusd circus.ini` both start."""

from feedbus.supervisor.watcher_options import endpoint, log_path, watchers

__all__ = ["endpoint", "log_path", "watchers"]
