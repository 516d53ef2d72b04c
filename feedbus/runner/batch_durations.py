"""How the duration of a batch depends on the number of its records."""

from __future__ import annotations

import math

KEPT_SHARE = 0.9  # each new batch reduces the weight of the earlier batches to this share


class BatchDurations:
    """Computes the fixed costs of a batch, and the costs of each record, from the latest batches.

    Fixed costs do not depend on the number of records. Examples are a commit, and the wait
    for other processes that use the same database.
    """

    def __init__(self) -> None:
        """Start without batches."""
        self._count = self._records = self._seconds = 0.0
        self._records_squared = self._products = 0.0

    def add(self, records: int, seconds: float) -> None:
        """Add a batch; the weight of the earlier ones decreases."""
        self._count = self._count * KEPT_SHARE + 1
        self._records = self._records * KEPT_SHARE + records
        self._seconds = self._seconds * KEPT_SHARE + seconds
        self._records_squared = self._records_squared * KEPT_SHARE + records * records
        self._products = self._products * KEPT_SHARE + records * seconds

    def records_within(self, seconds: float) -> float:
        """Return how many records a batch handles in this time; its fixed costs do not count.

        The result is infinity if the number of records does not change the duration. If all batches
        so far had the same number of records, the fixed costs are not known. They then count as
        costs of the records.
        """
        spread = self._records_squared * self._count - self._records**2
        common = self._products * self._count - self._records * self._seconds
        if spread <= self._records**2 * 1e-6:
            common, spread = self._seconds, self._records
        return seconds * spread / common if common > 0 else math.inf
