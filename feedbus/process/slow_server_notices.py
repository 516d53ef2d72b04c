"""Lines that a command prints while it waits for a server that does not answer.

Only commands show these lines: a program and a consumer's process have a log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTICE_SECONDS = 1.0  # the duration of a wait after which its notice is shown

Show = Callable[[str], None]


class SlowServerNotices:
    """Shows a notice for each wait for a server that takes longer than a second.

    A process has one SlowServerNotices object, `notices`. Each text is shown once.
    """

    def __init__(self) -> None:
        """Create the object; nothing is shown until show_with()."""
        self._show: Show | None = None
        self._process = 0
        self._shown: set[str] = set()

    def show_with(self, show: Show | None) -> None:
        """Pass the notices of this process to a function from now on.

        A forked child shows no notices.

        Args:
            show: called with each line, in a separate thread; None to show no more notices.

        """
        self._show, self._process, self._shown = show, os.getpid(), set()

    @contextmanager
    def during(self, text: str) -> Iterator[None]:
        """Show a text if the `with` block, which waits for a server, takes longer than a second.

        Args:
            text: what the command waits for.

        """
        show = self._show
        if show is None or self._process != os.getpid() or text in self._shown:
            yield
            return

        def notify() -> None:
            self._shown.add(text)
            show(text)

        timer = threading.Timer(NOTICE_SECONDS, notify)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


notices = SlowServerNotices()
