"""The supervisor, which starts and restarts the processes of a topology, with circus."""

from feedbus.supervisor.watcher_options import endpoint, log_path, watchers

__all__ = ["endpoint", "log_path", "watchers"]
