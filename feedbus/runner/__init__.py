"""The runner: run one consumer until a signal or a limit ends it."""

from feedbus.runner.limits import Limits
from feedbus.runner.runner import Runner
from feedbus.runner.signals import stopping_on_signals
from feedbus.runner.suspects import Suspects

__all__ = ["Limits", "Runner", "Suspects", "stopping_on_signals"]
