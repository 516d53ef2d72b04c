"""Times as the store keeps them (microseconds since 1970, UTC) and as JSON shows them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
EPOCH_SHOWN = EPOCH.replace(tzinfo=None)  # without a zone it is written in half the time


def now_us() -> int:
    """Return the current time, in microseconds since 1970 (UTC)."""
    return time.time_ns() // 1_000


def to_text(moment_us: int) -> str:
    """Return a time in ISO 8601, in UTC with six decimals, so that texts sort in time order.

    Args:
        moment_us: the time, in microseconds since 1970 (UTC).

    """
    moment = EPOCH_SHOWN + timedelta(0, 0, moment_us)
    # Faster than a format, and a feed has many.
    return moment.isoformat(timespec="microseconds") + "Z"


def to_us(moment: datetime) -> int:
    """Return a datetime, which has a time zone, in microseconds since 1970 (UTC)."""
    return (moment - EPOCH) // MICROSECOND
