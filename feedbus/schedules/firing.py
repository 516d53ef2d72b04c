"""Publish the message of a schedule, with an id that depends on its time."""

from __future__ import annotations

from datetime import datetime

from feedbus.bus import LiveBus
from feedbus.schedules.fired_moment import write_moment
from feedbus.topology import Schedule, Topology


def message_id(topology: Topology, schedule: Schedule, moment: datetime) -> str:
    """Return the message id of a schedule for one time: the same on every host.

    A queue with once = true handles a message once by its id, so a moment that a crash makes a
    host publish again has its effects once.
    """
    return f"{topology.name}.{schedule.name}@{write_moment(moment)}"


def fire(bus: LiveBus, topology: Topology, schedule: Schedule, moment: datetime) -> None:
    """Publish a schedule's message; return when the broker has confirmed it.

    Raises:
        PublishError: no queue gets it, or the broker refused it.
        BrokerOutage: the broker is unavailable; it may have arrived all the same.

    """
    bus.publish(
        schedule.exchange,
        dict(schedule.payload),
        schedule.key,
        message_id=message_id(topology, schedule, moment),
        headers=dict(schedule.headers) or None,
    )
