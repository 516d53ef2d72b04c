"""The rows of the table: each a fault, its size at full length, and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import disks, load_rows, poisons, requests, rolling, steady, topology_files
from tests.chaos.faults.cells import Cell
from tests.chaos.faults.columns import COLUMNS
from tests.chaos.faults.results import Result


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        title: the fault, with its name in the table.
        run: run a cell in an empty folder.
        size: the number of records, or of other objects that it counts, at full length.
        short_size: the size in the short form.
        columns: the brokers on which it is run.
        unit: the unit of the sizes.

    """

    title: str
    run: Callable[[Cell, Path], Result]
    size: int
    short_size: int
    columns: tuple[str, ...] = tuple(COLUMNS)
    unit: str = "records"

    @property
    def length(self) -> str:
        """The full length, as the table shows it."""
        return f"{self.size:,} {self.unit}"


ON_RABBITMQ = ("classic", "quorum")
NO_BROKER = ("embedded",)  # where the broker does not matter

ROWS = {
    "kills": Row("`kill -9` of a random process every 2 s", load_rows.kills, 1_000_000, 600),
    "rabbitmq": Row(
        "RabbitMQ stopped and started 5 times, killed twice",
        load_rows.rabbitmq,
        500_000,
        1_500,
        ON_RABBITMQ,
    ),
    "postgresql": Row(
        "PostgreSQL stopped and started 5 times, killed twice",
        load_rows.postgresql,
        500_000,
        1_500,
    ),
    "connections": Row(
        "connections cut, or silent for 30 s, 10 times",
        load_rows.connections,
        200_000,
        1_500,
    ),
    "disk": Row(
        "disk full under broker and store, or RabbitMQ's disk alarm; disk full under the logs",
        disks.run,
        100_000,
        1_500,
    ),
    "poison": Row(
        "one poison message in 1,000 records, of each kind",
        poisons.run,
        100_000,
        2_000,
    ),
    "repeats": Row(
        "everything published twice, by publishers that are killed every 2 s",
        load_rows.repeats,
        100_000,
        1_500,
    ),
    "upgrade": Row(
        "rolling upgrade of three hosts from feedbus 0.1",
        rolling.run,
        200_000,
        1_000,
        ("classic",),
    ),
    "topology": Row(
        "topology files mutated: `feedbus check` accepts or names places",
        topology_files.run,
        20_000,
        1_000,
        NO_BROKER,
        "files",
    ),
    "requests": Row(
        "schemathesis, and raw HTTP requests to the web and the operations process",
        requests.run,
        200_000,
        800,
        NO_BROKER,
        "requests",
    ),
    "steady": Row("steady load: memory and open files", steady.run, 3_600, 10, unit="seconds"),
}
