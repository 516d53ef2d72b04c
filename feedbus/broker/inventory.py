"""A topology's objects on the broker, read without declaring or changing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from feedbus.broker import project_marks
from feedbus.broker.interface import Kind, SeenBinding, SeenExchange, SeenQueue
from feedbus.broker.kinds import select_broker
from feedbus.broker_names import Names
from feedbus.topology import Topology


@dataclass(frozen=True, slots=True)
class Inventory:
    """The exchanges, queues and bindings of a topology that the broker has.

    The objects by which hosts announce themselves are left out, because the broker deletes them
    when the hosts disconnect.

    Attributes:
        exchanges: the exchanges by name.
        queues: the queues by name.
        bindings: the bindings by which the project's own queues and exchanges receive messages,
            except those of the default exchange and those in `timer_bindings`.
        timer_bindings: the bindings whose source is an exchange of the timer. The timer is the
            exchanges and queues in which delayed messages wait.
        unacknowledged_age_seconds: the largest age of the numbers of unacknowledged messages, which
            RabbitMQ reports late if a queue has consumers. 0 if these numbers are as new as the
            other numbers.

    """

    exchanges: Mapping[str, SeenExchange]
    queues: Mapping[str, SeenQueue]
    bindings: tuple[SeenBinding, ...]
    timer_bindings: tuple[SeenBinding, ...]
    unacknowledged_age_seconds: float = 0.0

    def bound_to(self, kind: Kind, destination: str) -> list[SeenBinding]:
        """Return the bindings by which a queue or an exchange receives messages.

        Args:
            kind: "queue" or "exchange".
            destination: the name of the queue or exchange.
        """
        return [one for one in self.bindings if (one.kind, one.destination) == (kind, destination)]


def read_inventory(topology: Topology) -> Inventory:
    """Return the project's own objects, whose names begin with its name, and external objects.

    `feedbus plan` and `feedbus apply` call it.

    Raises:
        BrokerOutage: the broker is unavailable, or the embedded broker's file cannot be read.
        UsageError: RabbitMQ's management API does not answer, or refuses this user; or another
            project is named like a queue or a hash exchange of this project.
    """
    prefix, names = f"{topology.name}.", Names(topology)
    exchanges = {one.external_name for one in topology.exchanges.values()} - {""}
    queues = {one.external_name for one in topology.queues.values()} - {""}
    survey = select_broker(topology).survey((prefix, *queues))
    all_exchanges = [one.name for one in survey.exchanges]
    project_marks.refuse_shared_prefixes(topology, all_exchanges)
    others = project_marks.other_prefixes(topology, all_exchanges)

    def own(name: str) -> bool:
        return name.startswith(prefix) and not name.startswith((*others, names.hosts))

    return Inventory(
        {one.name: one for one in survey.exchanges if own(one.name) or one.name in exchanges},
        {one.name: one for one in survey.queues if own(one.name) or one.name in queues},
        tuple(
            one
            for one in survey.bindings
            if one.source and own(one.destination) and not names.is_of_timer(one.source)
        ),
        tuple(
            one for one in survey.bindings if names.is_of_timer(one.source) and own(one.destination)
        ),
        survey.unacknowledged_age_seconds,
    )
