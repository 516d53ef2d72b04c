"""The row of full disks: publishers get an error that says so, and work resumes by itself."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from feedbus.bus import LiveBus
from feedbus.errors import FeedbusError
from servers.rabbitmq import RabbitMQ
from tests.chaos.faults.cells import Cell, run_loaded
from tests.chaos.faults.columns import started
from tests.chaos.faults.injectors import Fault, Sequential
from tests.chaos.faults.loaded_system import LoadedSystem, loaded
from tests.chaos.faults.results import Result
from tests.simulation.history import Record
from tests.small_disks import fill, small_disk

FULL_SECONDS = 8.0
SECONDS_OF_A_FAULT = 15  # the load continues until the last one
MOST_PROBES = 100
PROBE_BYTES = 1_000_000
TIMES = 3
SAYS_SO = re.compile(r"disk|space", re.IGNORECASE)


@dataclass(slots=True)
class Filling:
    """Fills a disk for some seconds, and publishes meanwhile, to get the error."""

    system: LoadedSystem
    errors: list[str] = field(default_factory=list)

    def disk(self, folder: Path, *, refused: bool) -> Callable[[], None]:
        """Return the fault of a full disk; refused is whether publishers get an error then."""

        def inject() -> None:
            filler = fill(folder)
            if refused:
                self._publish()
            time.sleep(FULL_SECONDS)
            filler.unlink()

        return inject

    def alarm(self, node: RabbitMQ) -> Callable[[], None]:
        """Return the fault of RabbitMQ's alarm for a disk with little space."""

        def inject() -> None:
            node.control("set_disk_free_limit", "1000000GB")
            time.sleep(1.0)
            self._publish()
            time.sleep(FULL_SECONDS)
            node.control("set_disk_free_limit", "1MB")

        return inject

    def _publish(self) -> None:
        """Publish as a program does until there is an error: files have some room of their own."""
        with LiveBus(self.system.topology, timeout_seconds=2.0) as bus:
            for _ in range(MOST_PROBES):
                record = Record("probe", len(self.system.uncertain))
                self.system.uncertain.append(record)
                fields = {"key": record.key, "number": record.n, "unknown": "x" * PROBE_BYTES}
                try:
                    bus.publish("ring", fields, record.key)
                except FeedbusError as error:
                    self.errors.append(str(error))
                    return

    def problems(self, expected: int) -> list[str]:
        """Return what is wrong with the errors: each full disk gives one, which names the disk."""
        vague = [each for each in self.errors if not SAYS_SO.search(each)]
        missing = expected - len(self.errors)
        return [
            *(f"an error that does not name the disk: {each}" for each in vague),
            *([f"{missing} publishes on a full disk got no error"] if missing else []),
        ]


def run(cell: Cell, folder: Path) -> Result:
    """Fill the disks under the embedded broker and store, RabbitMQ, and the logs."""
    var, times = folder / "var", 1 if cell.short else TIMES
    with ExitStack() as stack:
        servers = stack.enter_context(started(cell.where, folder))
        if servers.rabbitmq is None:
            stack.enter_context(small_disk(var, 300))
        stack.enter_context(small_disk(var / "log", 4))
        system = stack.enter_context(loaded(servers))
        filling = Filling(system)
        faults: list[Fault] = [("logs: full disk", filling.disk(var / "log", refused=False))]
        if servers.rabbitmq is None:
            faults.append(("broker and store: full disk", filling.disk(var, refused=True)))
        else:
            faults.append(("RabbitMQ: disk alarm", filling.alarm(servers.rabbitmq)))
        injector = Sequential.shuffled(faults * times, cell.random)
        figures: dict[str, str] = {}
        rate = cell.size // (len(faults) * times * SECONDS_OF_A_FAULT)
        result = run_loaded(cell, system, injector, figures, rate=rate)
        result.problems.extend(filling.problems(times))
        figures["error of a publisher"] = (
            filling.errors[0].rpartition(": ")[2] if filling.errors else "none"
        )
        return result
