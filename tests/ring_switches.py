"""The state of a ring in tests of its switches, and records for its shards."""

from __future__ import annotations

from feedbus import broker
from feedbus.generations import state_queues
from feedbus.generations.ring_state import RingState
from tests.systems import System


def state(system: System) -> RingState:
    """Return the state of the ring."""
    with broker.connect(system.topology) as connection:
        return state_queues.states(connection, system.topology)["ring"]


def publish(system: System, number: int, key: str = "k") -> None:
    """Publish a plain record."""
    with system.bus() as bus:
        bus.publish("ring", {"n": number}, key)
