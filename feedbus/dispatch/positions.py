"""Positions: the numbers that keep the waiting records of a key in order.

A record gets a position when it begins to wait, and keeps this position until the record is
handled. The records of a key are handled in the order of their positions.

A change of shards creates a new generation of queues. Each generation has a range of positions,
which is above the ranges of all earlier generations. Example: the records R1 to R4 have one key. R1
and R2 are in the queue of generation 0, R3 and R4 in the queue of generation 1. R1 fails, and gets
position 1. R3 and R4 arrive. They must wait for R1, and get the positions 2**40 + 1 and 2**40 + 2.
Then R2 arrives. It must wait, too, and gets position 2. So the order of the positions is R1, R2,
R3, R4.
"""

from __future__ import annotations

POSITIONS_PER_GENERATION = 2**40


def generation_of(position: int) -> int:
    """Return the number of the generation whose range contains a position.

    Each generation of queues has a range of 2**40 positions.

    Args:
        position: the position of a waiting record.

    """
    return position // POSITIONS_PER_GENERATION


class Positions:
    """Assigns the next position to each record of a consumer that begins to wait.

    The records of a key are handled in the order of their positions. WaitingRecords, the waiting
    records of one consumer, has one Positions object.
    """

    def __init__(self) -> None:
        """Start without positions."""
        self._last_positions: dict[int, int] = {}  # by the number of the generation

    def next(self, generation_number: int) -> int:
        """Return a new position for a record, above all earlier positions of its generation.

        Args:
            generation_number: the number of the generation whose queue has delivered the record.

        """
        first = generation_number * POSITIONS_PER_GENERATION + 1
        position = self._last_positions.get(generation_number, first - 1) + 1
        self._last_positions[generation_number] = position
        return position

    def register(self, position: int) -> None:
        """Register the position of a record that already waits, so that next() returns higher ones.

        Args:
            position: the position.

        """
        number = generation_of(position)
        self._last_positions[number] = max(self._last_positions.get(number, 0), position)
