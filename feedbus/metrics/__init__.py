"""Every metric: recorded by each process into a file of its name, read together for /metrics."""

from feedbus.metrics.catalogue import Outcome, Part, Verdict
from feedbus.metrics.exposition import CONTENT_TYPE, deliveries, exposition, totals
from feedbus.metrics.recorder import ConsumerMetrics, Metrics

__all__ = [
    "CONTENT_TYPE",
    "ConsumerMetrics",
    "Metrics",
    "Outcome",
    "Part",
    "Verdict",
    "deliveries",
    "exposition",
    "totals",
]
