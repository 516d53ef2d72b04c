"""The size of batches from old queues: a small batch delays the records of new queues less.

Old queues belong to older generations of a ring. A consumer reads them together with its own queue
until they are empty.
"""

from __future__ import annotations

from feedbus.runner.batch_durations import BatchDurations

# A batch from an old queue may delay new records by this time, in addition to its fixed costs.
ADDED_SECONDS = 0.1
FIRST_RECORDS = 100.0  # the size of the first batch
STEP = 2.0  # the largest factor by which the size changes


class OldQueueBatches:
    """Computes the largest number of records in the next batch from an old queue.

    An old queue belongs to an older generation of a ring. While one of its batches is handled, the
    records of newer queues are delayed. So the records of such a batch may take only 0.1 s
    (ADDED_SECONDS). The fixed costs of a batch, such as a commit, are not included in this time:
    otherwise batches would be so small that the fixed costs take most of the time.

    The batch mode has one OldQueueBatches object.

    Attributes:
        size: the largest number of records in the next batch.

    """

    def __init__(self, max_size: int) -> None:
        """Start with a small size; later sizes depend on the durations of batches.

        Args:
            max_size: the largest number of records in any batch.

        """
        self._max_size = max_size
        self._durations = BatchDurations()
        self.size = FIRST_RECORDS

    def add(self, records: int, seconds: float, *, old: bool) -> None:
        """Add the duration of a batch; after a batch of an old queue, adjust the size.

        The batch mode calls this after each batch, while it reads queues of several generations.

        Args:
            records: the number of records in the batch.
            seconds: how long the handling of the batch took.
            old: whether the batch came from a queue of an older generation.

        """
        self._durations.add(records, seconds)
        if old:
            wanted_records = self._durations.records_within(ADDED_SECONDS)
            self.size = min(
                max(wanted_records, self.size / STEP, 1.0), self.size * STEP, self._max_size
            )
