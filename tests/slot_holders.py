"""A process that holds a slot, in Python code that a test starts."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

# Its arguments are the folder and, where it is not feed_3, the name of the consumer.
HOLD = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from feedbus.process import slots
class Folder: var = Path(sys.argv[1])
with slots.hold_slot(Folder, sys.argv[2] if len(sys.argv) > 2 else "feed_3", 1):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def python(code, *arguments, **options):
    """Run code in a process, which is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
