"""A cell of the table: one fault on one broker and store, and its run."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.faults.columns import COLUMNS, Column
from tests.chaos.faults.loaded_system import Injector, LoadedSystem
from tests.chaos.faults.results import Result
from tests.chaos.faults.verdict import Verdict, check_store


@dataclass(slots=True)
class Cell:
    """A run of the table.

    Attributes:
        row: the name of the fault.
        column: the name of the broker and store.
        size: the number of records, or of other objects that the row counts.
        seed: the seed of all random numbers.
        short: whether this is the short form, which does everything less often.

    """

    row: str
    column: str
    size: int
    seed: int
    short: bool = False
    random: random.Random = field(init=False)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed} {self.row} {self.column}")

    @property
    def where(self) -> Column:
        """The column."""
        return COLUMNS[self.column]

    def result(
        self,
        servers: str,
        load: str,
        faults: Mapping[str, int],
        verdict: Verdict,
        figures: dict[str, str] | None = None,
    ) -> Result:
        """Return the result of this cell."""
        return Result(
            self.row,
            self.column,
            self.seed,
            servers,
            load,
            dict(faults),
            len(verdict.lost),
            len(verdict.doubled),
            len(verdict.disordered),
            verdict.lines(),
            {} if figures is None else figures,
            self.size,
            round(time.monotonic() - self.started, 1),
        )


RATES = {"classic": 1_500, "quorum": 800, "embedded": 1_500}  # records a second


def run_loaded(
    cell: Cell,
    system: LoadedSystem,
    injector: Injector,
    figures: dict[str, str] | None = None,
    *,
    rate: int = 0,
    records: int = 0,
) -> Result:
    """Publish, inject faults, wait until all is handled, and check the store.

    Args:
        cell: the scenario and the broker.
        system: the application.
        injector: injects the faults.
        figures: the other measurements.
        rate: records a second; 0 for the usual rate of the column.
        records: 0 for the size of the cell.

    """
    records = system.publish(records or cell.size, rate or RATES[cell.column])
    left = system.run(records, injector)
    verdict = check_store(system.store_url, system.accepted(), system.uncertain)
    verdict.other += [*left, *injector.omitted()]
    load = f"{records:,} records"
    return cell.result(system.servers.names, load, injector.done, verdict, figures)
