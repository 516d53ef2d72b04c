"""The supervisor: the circus watchers of a topology, for `feedbus up` and `circusd circus.ini`."""

from feedbus.supervisor.watcher_options import endpoint, log_path, watchers

__all__ = ["endpoint", "log_path", "watchers"]
