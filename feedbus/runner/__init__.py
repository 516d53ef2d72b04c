"""Run one consumer until a signal or a limit ends the run."""

from feedbus.runner.crash_guard import CrashGuard
from feedbus.runner.limits import Limits
from feedbus.runner.runner import Runner
from feedbus.runner.stop_signals import stopping_on_signals

__all__ = ["CrashGuard", "Limits", "Runner", "stopping_on_signals"]
