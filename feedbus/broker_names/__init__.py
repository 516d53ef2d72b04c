"""The names of a topology's objects on the broker: how they are built and parsed."""

from feedbus.broker_names.derived_names import (
    OF_A_QUEUE,
    OF_AN_EXCHANGE,
    Derived,
    Role,
    belongs_to_queue,
    derived,
    has_role,
    queue_of,
    role_of,
)
from feedbus.broker_names.names import (
    LOCK,
    PARKED,
    WAITING,
    Names,
    lock_queue,
)

__all__ = [
    "LOCK",
    "OF_AN_EXCHANGE",
    "OF_A_QUEUE",
    "PARKED",
    "WAITING",
    "Derived",
    "Names",
    "Role",
    "belongs_to_queue",
    "derived",
    "has_role",
    "lock_queue",
    "queue_of",
    "role_of",
]
