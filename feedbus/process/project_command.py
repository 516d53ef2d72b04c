"""Run a command of the project (`[processes]`) in a slot, in place of this process.

A slot is the number of a process among the processes of its `[processes.NAME]` table. The process
holds the lock of its slot, so that no second process runs in the slot.

The supervisor starts `python -m feedbus.process.project_command --run FOLDER --name NAME --slot N
[--memory-limit BYTES] -- COMMAND …`. FOLDER is the result of slots.run_folder().
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from feedbus.errors import FeedbusError, UsageError
from feedbus.process.process_setup import default_signals, follow_parent, limit_memory
from feedbus.process.slots import PATIENCE_SECONDS, take_slot


def become(arguments: Sequence[str]) -> None:
    """Replace this process by a command of the project, which then holds the lock of a slot.

    Before that, the function takes the lock of the slot, limits the memory, and lets the process
    get SIGTERM when the supervisor ends. If the command has started, the function never returns.

    Args:
        arguments: the command line without the name of the module: --run FOLDER, --name NAME,
            --slot N and --memory-limit BYTES, then `--` and the command with its arguments.

    Raises:
        SlotTaken: another process holds the slot and did not release it in time.
        UsageError: the command cannot be started.

    """
    parser = argparse.ArgumentParser(prog="python -m feedbus.process.project_command")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--memory-limit", type=int, metavar="BYTES")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    follow_parent()
    default_signals()  # follow_parent() ignores SIGPIPE, as Python programs do
    # The slot's lock is a record lock. The command, which replaces this process, keeps the lock as
    # long as the descriptor is open. So exec must not close the descriptor.
    os.set_inheritable(take_slot(asked.run, asked.name, asked.slot, PATIENCE_SECONDS), True)
    limit_memory(asked.memory_limit)
    try:
        os.execvp(asked.command[0], asked.command)  # noqa: S606 -- no shell is wanted
    except OSError as error:
        msg = (
            f"cannot start {asked.command[0]}: {error.strerror}; install the program, or correct"
            f" `command` in [processes.{asked.name}]"
        )
        raise UsageError(msg) from None


if __name__ == "__main__":
    try:
        become(sys.argv[1:])
    except FeedbusError as error:
        sys.exit(f"error: {error}")
