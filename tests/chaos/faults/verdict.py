"""The comparison of the accepted records with the rows in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.faults import reader
from tests.chaos.faults.application.effects import failures
from tests.simulation import history
from tests.simulation.history import Record

SHOWN = 10


@dataclass(slots=True)
class Verdict:
    """The errors, in one line for each record."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not (self.lost or self.doubled or self.disordered or self.other)

    def lines(self) -> list[str]:
        """Return the first lines of each kind."""
        kinds = (self.lost, self.doubled, self.disordered, self.other)
        return [line for kind in kinds for line in kind[:SHOWN]]


def check_store(url: str, accepted: Sequence[Record], uncertain: Sequence[Record] = ()) -> Verdict:
    """Read the store and compare it with the accepted records.

    Each record has one effect and one notice, each key is in order in both, and a record was
    attempted once more than it fails by itself: no fault counts as an attempt.
    """
    found = Verdict()
    for stage in reader.STAGES:
        rows = reader.effects(url, stage)
        records = [Record(row.key, row.number) for row in rows]
        found.lost += history.missing(stage, accepted, records)
        found.doubled += history.repeated(stage, records)
        found.disordered += history.disordered(stage, records)
        found.other += history.invented(stage, [*accepted, *uncertain], records)
        found.other += [
            f"{stage}: {row.key}{row.number} had its effect at attempt {row.attempt}"
            for row in rows
            if row.attempt not in {None, 1 + (stage == "update") * failures(row.key, row.number)}
        ]
    return found
