"""Marks that ignore the warnings which killed simulated processes cause."""

from __future__ import annotations

import pytest

# Python finds the sockets and the coroutines of a killed process unused.
OF_KILLED_PROCESSES = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]
