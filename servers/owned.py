"""A server's process, which ends with the tests that started it, also if they are killed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

# Read returns when the process that started this one has ended: the pipe is closed.
# A line means that the server has ended before.
KEEPER = 'read -r line || kill -KILL "-$0"'


class OwnedProcess(subprocess.Popen[bytes]):
    """A process in a session of its own; its group is killed when the process that started it ends.

    Args:
        command: the program and its arguments.
        options: what `subprocess.Popen` takes.

    """

    def __init__(self, command: list[str | Path], **options: Any) -> None:
        super().__init__(command, start_new_session=True, **options)
        self._keeper: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, str(self.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and let its keeper go."""
        code = super().wait(timeout)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.communicate(b"ended\n")
        return code
