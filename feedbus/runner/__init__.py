"""One consumer until told to stop."""

from feedbus.runner.runner import Limits, Runner
from feedbus.runner.suspects import Suspects

__all__ = ["Limits", "Runner", "Suspects"]
