"""Compare a topology with its broker and its supervisor: what `feedbus apply` would do."""

from feedbus.plan.changes import (
    Change,
    Draining,
    Evenness,
    HotKey,
    ObjectsToChange,
    Plan,
    RingChange,
    Wait,
    Watchers,
)

__all__ = [
    "Change",
    "Draining",
    "Evenness",
    "HotKey",
    "ObjectsToChange",
    "Plan",
    "RingChange",
    "Wait",
    "Watchers",
]
