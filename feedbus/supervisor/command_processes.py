"""Run a command of feedbus from the supervisor, in a separate process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

# circus reaps every child process of the supervisor, so the exit code of this child can be lost.
# The child is a shell: it runs the command, and writes the command's exit code as its last line.
REPORTING = '"$@"; code=$?; echo; echo $code'

ENDING_SECONDS = 0.01  # the time between two checks whether the shell has ended

# The tasks that wait for output. Without this set, the garbage collector could remove such a task:
# the event loop has only a weak reference to a task, and StreamReaderProtocol to its reader.
_waiting: set[asyncio.Task[Any] | None] = set()


async def run_command(topology: Path, *words: str) -> tuple[str, int]:
    """Run a command of feedbus; return what it printed to stdout and stderr, and its exit code.

    Args:
        topology: the path of the topology file.
        words: the command with its options.

    """
    command = [sys.executable, "-m", "feedbus", "--topology", str(topology), *words]
    # asyncio.create_subprocess_exec() would wait for the exit code. circus can reap the process
    # first; asyncio would then log a warning.
    process = subprocess.Popen(  # noqa: ASYNC220 -- the loop reads its output
        ["/bin/sh", "-c", REPORTING, "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    reader = asyncio.StreamReader()
    task = asyncio.current_task()
    _waiting.add(task)
    try:
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        output = (await reader.read()).decode(errors="replace")
        # The shell has closed its output and ends now.
        while process.poll() is None:  # noqa: ASYNC110 -- nothing reports the end to the loop
            await asyncio.sleep(ENDING_SECONDS)
    finally:
        _waiting.discard(task)
    printed, _, code = output.strip().rpartition("\n")
    return printed.rstrip(), int(code) if code.isdecimal() else 1
