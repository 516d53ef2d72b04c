"""Metrics: each process writes them to its own file, and `/metrics` reads the files of all."""

from feedbus.metrics.catalogue import Limit, Outcome, Verdict
from feedbus.metrics.merged_metrics import (
    CONTENT_TYPE,
    Settled,
    deliveries,
    dropped_dead_letters,
    exposition,
    settled,
    totals,
)
from feedbus.metrics.recorder import ConsumerMetrics, Metrics
from feedbus.metrics.waiting_counts import WaitingCounts, all_waiting, mark_waiting

__all__ = [
    "CONTENT_TYPE",
    "ConsumerMetrics",
    "Limit",
    "Metrics",
    "Outcome",
    "Settled",
    "Verdict",
    "WaitingCounts",
    "all_waiting",
    "deliveries",
    "dropped_dead_letters",
    "exposition",
    "mark_waiting",
    "settled",
    "totals",
]
