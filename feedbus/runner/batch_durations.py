"""An estimate, from the latest batches, of the time that a batch needs for each of its records.

feedbus.runner.old_queue_batches limits batches from old queues with it.
"""

from __future__ import annotations

import math

KEPT_SHARE = 0.9  # each new batch reduces the weight of the earlier batches to this share


class BatchDurations:
    """Computes the fixed costs of a batch, and the costs of each record, from the latest batches.

    Costs are times in seconds. Fixed costs do not depend on the number of records. Examples are a
    commit, and the wait for other processes that use the same database. The costs of a record are
    the slope of a line: a linear regression of the durations over the numbers of records, in which
    later batches have a higher weight.

    OldQueueBatches has one BatchDurations object, and computes with the object how large the next
    batch of an old queue may be.
    """

    def __init__(self) -> None:
        """Start without batches."""
        # Weighted sums over the batches: their number, their records, their durations, the squares
        # of their records, and the products of records and duration.
        self._count = self._records = self._seconds = 0.0
        self._records_squared = self._products = 0.0

    def add(self, records: int, seconds: float) -> None:
        """Add a batch that was handled; the weight of the earlier ones decreases.

        This method is called after each batch.

        Args:
            records: the number of records in the batch.
            seconds: how long the handling of the batch took.

        """
        self._count = self._count * KEPT_SHARE + 1
        self._records = self._records * KEPT_SHARE + records
        self._seconds = self._seconds * KEPT_SHARE + seconds
        self._records_squared = self._records_squared * KEPT_SHARE + records * records
        self._products = self._products * KEPT_SHARE + records * seconds

    def records_within(self, seconds: float) -> float:
        """Return how many records a batch handles in this time; its fixed costs do not count.

        The result is infinity if more records do not make a batch longer. If all batches so far had
        the same number of records, the fixed costs are not known. Then the whole duration of a
        batch counts as costs of its records.

        OldQueueBatches determines with it the size of the next batch of an old queue.

        Args:
            seconds: the time that the handling of the records may take, without the fixed costs.

        """
        # Both values are too large by the same factor, which cancels out in the result.
        variance = self._records_squared * self._count - self._records**2
        covariance = self._products * self._count - self._records * self._seconds
        if variance <= self._records**2 * 1e-6:  # all batches had about the same number of records
            covariance, variance = self._seconds, self._records
        return seconds * variance / covariance if covariance > 0 else math.inf
