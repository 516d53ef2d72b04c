"""Publish the message of a schedule; the message id contains the moment of the schedule."""

from __future__ import annotations

from datetime import datetime

from feedbus.bus import LiveBus
from feedbus.schedules.fired_moment import write_moment
from feedbus.topology import Schedule, Topology


def message_id(topology: Topology, schedule: Schedule, moment: datetime) -> str:
    """Return the message id for one moment of a schedule, the same on every host.

    After a crash, a host may publish the message of a moment again. Both messages have the same id,
    so a queue with once = true handles only one of them.

    Args:
        topology: the topology of the schedule.
        schedule: the schedule.
        moment: a point in time at which the schedule is due.

    """
    return f"{topology.name}.{schedule.name}@{write_moment(moment)}"


def fire(bus: LiveBus, topology: Topology, schedule: Schedule, moment: datetime) -> None:
    """Publish the message of a schedule for one moment; return when the broker has confirmed it.

    Args:
        bus: publishes the message.
        topology: the topology of the schedule.
        schedule: the schedule.
        moment: the point in time at which the schedule was due, with a time zone.

    Raises:
        PublishError: no queue gets the message, or the broker refused it.
        BrokerOutage: the broker is unavailable; the message may have arrived anyway.

    """
    bus.publish(
        schedule.exchange,
        dict(schedule.payload),
        schedule.key,
        message_id=message_id(topology, schedule, moment),
        headers=dict(schedule.headers) or None,
    )
