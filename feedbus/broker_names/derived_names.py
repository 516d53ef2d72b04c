"""The roles of objects on the broker, found in their names.

feedbus makes such a name from the name of a queue, a consumer or an exchange. The suffix of the
name says what the object is for: "shop.orders.dead" has the dead letters of "shop.orders".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

DIGEST = r"[0-9a-f]{8}"  # the digest of a generation


class Role(Enum):
    """The role of an object for its owner; the value is a regular expression of the name's suffix.

    The owner is the queue, consumer or exchange for which feedbus declares the object. These roles
    need an explanation:

    Attributes:
        BEFORE: the queue with the earlier messages of a queue that was replaced.
        GATE: the exchange that routes to a queue while the queue is being replaced.
        GATE_HELD: the messages that arrive while the gate is closed.
        PARKED: the retries of a queue that is being replaced.
        GENERATION: a ring exchange, or a queue of a shard in such a ring. The suffix of its name is
            the digest of its generation.
        HELD: the messages that arrive during a switch to another ring.
        LEDGER: the copy of a ring's state that processes read before they change the state.
        REMOVED: the exchange that marks a queue which is no longer in the topology.
    """

    DEAD = "dead"
    BEFORE = "before"
    GATE = "gate"
    GATE_HELD = r"gate\.held"
    WAITING = rf"(?:{DIGEST}\.)?waiting"
    RETRY = r"retry\.\d+"
    PARKED = r"retry\.\d+\.parked"
    GENERATION = DIGEST
    PACKS = "packs"
    HELD = "held"
    GENERATIONS = "generations"
    LEDGER = r"generations\.ledger"
    REMOVED = rf"(?:{DIGEST}\.)?:removed"


OF_A_QUEUE = frozenset(
    {
        *(Role.DEAD, Role.BEFORE, Role.GATE, Role.GATE_HELD, Role.WAITING),
        *(Role.RETRY, Role.PARKED, Role.GENERATION, Role.REMOVED),
    }
)
OF_AN_EXCHANGE = frozenset({Role.PACKS, Role.HELD, Role.GENERATIONS, Role.LEDGER, Role.GENERATION})
_SUFFIX = "|".join(f"(?P<{role.name}>{role.value})" for role in Role)
_SHARD = re.compile(r"_\d+$")


@dataclass(frozen=True, slots=True)
class Derived:
    """A name that feedbus has made from the name of a queue, a consumer or an exchange.

    Attributes:
        owner: the name before the suffix, with the topology's name if the whole name has it:
            "shop.orders" in "shop.orders.dead".
        role: what the object is for, as the suffix says: Role.DEAD for the suffix "dead".

    """

    owner: str
    role: Role


def role_of(suffix: str) -> Role | None:
    """Return the role for which a suffix, such as "dead", stands; None for an unknown suffix."""
    found = re.fullmatch(_SUFFIX, suffix)
    return Role[found.lastgroup] if found is not None and found.lastgroup else None


def derived(name: str) -> Derived | None:
    """Return the parts of a name that feedbus has made; None if the name has no suffix.

    Example:
        `derived("shop.orders.retry.1000")` is `Derived("shop.orders", Role.RETRY)`.

    """
    found = re.fullmatch(rf"(.+?)\.(?:{_SUFFIX})", name)
    if found is None or not found.lastgroup:
        return None
    return Derived(found[1], Role[found.lastgroup])


def has_role(name: str, roles: Collection[Role]) -> bool:
    """Whether a name has the suffix of one of some roles.

    Args:
        name: the name of an exchange or queue on the broker.
        roles: the roles.

    """
    made = derived(name)
    return made is not None and made.role in roles


def queue_of(consumer: str) -> str:
    """Return the name of a consumer's queue in the topology: without the number of its shard.

    Args:
        consumer: the name of the consumer, such as "update_feed_3", whose queue is "update_feed".

    """
    return _SHARD.sub("", consumer)


def belongs_to_queue(name: str, queue: str) -> bool:
    """Whether a name is the name of a queue or of one of its shards, or is derived from this name.

    The name of a shard's queue on the broker always contains the digest of its generation. So
    "orders_2" is not a shard of "orders", but "orders_2.0123abcd" is.

    Args:
        name: the name, without the topology's name.
        queue: the name of the queue, without the topology's name.

    """
    if not name.startswith(queue):
        return False
    rest = re.sub(rf"^_\d+(?=\.{DIGEST}(\.|$))", "", name[len(queue) :])
    return not rest or (rest.startswith(".") and role_of(rest[1:]) in OF_A_QUEUE)
