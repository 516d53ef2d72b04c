"""Run a command of feedbus from the supervisor, in a separate process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

# circus reaps every child process of the supervisor, so the exit code of this child can be lost.
# The child is a shell: it runs the command, and writes the command's exit code as its last line.
REPORTING = '"$@"; code=$?; echo; echo $code'

CHECK_SECONDS = 0.02  # the time between two checks whether the shell has ended
# How long a command may take to end after SIGTERM, and its last output to arrive after its end.
GRACE_SECONDS = 2.0

# The tasks that wait for output. Without this set, the garbage collector could remove such a task:
# the event loop has only a weak reference to a task, and StreamReaderProtocol to its reader.
_waiting: set[asyncio.Task[Any] | None] = set()


async def run_command(
    topology: Path, *words: str, limit_seconds: float = math.inf
) -> tuple[str, int | None]:
    """Run a command of feedbus; return what it printed to stdout and stderr, and its exit code.

    The exit code is None if the time limit was exceeded. Then the command gets SIGTERM. Processes
    that the project's code has started continue to run.

    Args:
        topology: the path of the topology file.
        words: the command with its options.
        limit_seconds: the longest time that the command may take.

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
    reader, output = asyncio.StreamReader(), bytearray()
    task = asyncio.current_task()
    _waiting.add(task)
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        reading = asyncio.create_task(_read(reader, output))
        # A process that the project's code has started can keep the output open. So the end of the
        # shell counts, and not the end of its output.
        ended = await _ends(process, limit_seconds)
        in_time = ended or not _terminate_child(process.pid)
        ended = ended or await _ends(process, GRACE_SECONDS)
        await asyncio.wait({reading}, timeout=GRACE_SECONDS)
        reading.cancel()
        transport.close()
    finally:
        _waiting.discard(task)
    text = output.decode(errors="replace").strip()
    if not ended:
        return text, None
    printed, _, code = text.rpartition("\n")
    if not in_time:
        return printed.rstrip(), None
    return printed.rstrip(), int(code) if code.isdecimal() else 1


async def _read(reader: asyncio.StreamReader, output: bytearray) -> None:
    while part := await reader.read(65536):
        output += part


async def _ends(process: subprocess.Popen[bytes], limit_seconds: float) -> bool:
    """Wait until a process has ended; return False if it still runs after the limit."""
    deadline = time.monotonic() + limit_seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(CHECK_SECONDS)
    return True


def _terminate_child(shell: int) -> bool:
    """Send SIGTERM to the command that a shell runs; return False if the command has just ended.

    Args:
        shell: the process id of the shell.

    """
    with contextlib.suppress(psutil.Error):
        for command in psutil.Process(shell).children():
            command.terminate()
            return True
    return False
