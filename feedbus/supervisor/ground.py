"""Make ready what the processes need before any starts: handlers, the store, the broker.

In a process of its own, so that the supervisor stays small and keeps no connection.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from feedbus.errors import FeedbusError
from feedbus.supervisor.watchers import KEEP_BYTECODE
from feedbus.topology import Topology


def prepare(topology: Topology) -> bool:
    """Check the handlers, prepare the store, declare the broker; False when stderr says why not."""
    command = [sys.executable, "-m", "feedbus.supervisor.ground", os.path.relpath(topology.path)]
    environment = os.environ | KEEP_BYTECODE
    # A group of its own: Ctrl-C is for its parent, who ends it without a traceback.
    with subprocess.Popen(command, env=environment, process_group=0) as process:
        try:
            importlib.import_module("feedbus.supervisor.supervision")  # what comes next, meanwhile
            return process.wait() == 0
        except BaseException:
            process.terminate()
            raise


def main(path: Path) -> None:
    """Do the work of prepare() in this process."""
    from feedbus import config
    from feedbus.broker import generations
    from feedbus.handling import resolve_object

    topology = config.load(path, import_handlers=True)
    if topology.store_prepare is not None:
        resolve_object(topology.store_prepare, topology.root)(topology)
    generations.establish(topology)
    importlib.import_module("feedbus.runner")  # compiled once here, not once a consumer


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except FeedbusError as error:
        from feedbus.cli import tell

        tell(error)
        sys.exit(1)
