"""The steps of `feedbus apply`, in the function apply().

They are: declare new objects, switch the rings, change the processes, wait until the consumers have
emptied old queues, and delete objects that the topology no longer has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from feedbus import broker
from feedbus.apply.drain_wait import LeavingQueues, await_drained, is_drained
from feedbus.broker import (
    declarations,
    inventory,
    locks,
    project_marks,
    staged_bindings,
    timer_objects,
)
from feedbus.broker_names import Names, Role, has_role
from feedbus.errors import UsageError
from feedbus.generations import (
    older_topology_files,
    queue_deletion,
    queue_replacement,
    removed_queues,
    retry_queue_replacement,
    state_queues,
    switch,
    switch_notices,
)
from feedbus.generations.full_queues import repeat_while_full
from feedbus.generations.leaving_consumers import wait_for_consumers_to_leave
from feedbus.generations.queue_emptying import NOT_EMPTY
from feedbus.generations.ring_state import RingState
from feedbus.generations.switch import exit_after_step
from feedbus.plan.changes import Plan
from feedbus.plan.planning import make_plan
from feedbus.process.slots import run_folder
from feedbus.topology import Topology
from feedbus.wire.amqp_protocols import Channel, Connection

# Before a queue is deleted, _unbind() removes its bindings, and deletes exchanges without a use. It
# leaves out exchanges with these roles, and bindings to them: they are needed until the last
# message of the queue is handled.
NEEDED_TO_THE_END = {
    *(Role.GENERATION, Role.HELD, Role.GATE_HELD),
    *(Role.BEFORE, Role.RETRY, Role.REMOVED),
}


class Supervisor(Protocol):
    """The methods of the supervisor that apply() calls.

    The supervisor is the process that starts and stops the consumers. `feedbus apply` passes an
    object that sends requests to the supervisor.
    """

    def pause(self, consumers: tuple[str, ...]) -> None:
        """Stop these consumers, because their queues will be replaced.

        change_topology() starts them again.

        Args:
            consumers: the names of the consumers.

        """

    def change_topology(self) -> None:
        """Start new consumers, and restart consumers whose settings have changed.

        A consumer that is not in the new topology continues to run, so that it empties its queue.
        finish() ends such consumers.
        """

    def finish(self) -> None:
        """End the consumers that are not in the new topology.

        apply() calls this when their queues are empty.
        """


@contextmanager
def exclusive(topology: Topology) -> Iterator[None]:
    """Hold, during a `with` block, the lock of `feedbus apply` in the `var` folder.

    `feedbus apply` makes and carries out its plan in the block. So only one `feedbus apply` of a
    project runs on a host.

    Args:
        topology: the topology; it names the `var` folder.

    Raises:
        UsageError: another `feedbus apply` is running.

    """
    path = run_folder(topology) / "apply.lock"
    try:
        with locks.hold_file(path, 0.0):
            yield
    except UsageError as error:
        if str(path) not in str(error):
            raise
        msg = (
            f"another `feedbus apply` is running ({path} is locked); wait until it has ended, or"
            " stop it"
        )
        raise UsageError(msg) from None


def apply(  # noqa: PLR0913 -- an apply's parts, each given by name
    topology: Topology,
    plan: Plan,
    supervisor: Supervisor | None,
    *,
    wait: bool,
    report: Callable[[str], None],
    progress: Callable[[int], None],
    allow_older_file: bool = False,
) -> bool:
    """Carry out a plan of changes on the broker and in the supervisor; `feedbus apply` calls this.

    Args:
        topology: the wanted state.
        plan: a new plan of this topology; the caller holds the lock of exclusive().
        supervisor: the supervisor of the running consumers; None if nothing runs.
        wait: whether to wait until the old queues are drained: their consumers have handled all
            messages and deleted the queues. If `wait` is False, and an old queue still has
            messages, apply() returns False.
        report: called with a line for each change that was made.
        progress: called at each check with the number of messages that are left in queues that
            drain.
        allow_older_file: whether to use this file even if the current ring is from a newer file of
            another host.

    Returns:
        Whether everything is done. If not, the next `feedbus apply` or `feedbus up` does the rest.

    Raises:
        Outage: the broker does not answer.
        UsageError: one of these is true: a change of the plan is dangerous; another process uses an
            object that has to change; another host's file is newer.

    """
    # apply() waits until the consumers have emptied these queues and their retry queues. It does
    # not wait for a queue that --delete-nonempty names, because this queue is deleted with its
    # messages.
    emptied = [queue for queue in plan.work.queues_to_empty if queue not in plan.work.nonempty]
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        _refuse(connection, topology, plan)
        exit_after_step("planned")
        # If a queue is full during the switch, repeat_while_full() calls change() again. Only the
        # first call declares the objects. It puts one item into this list: the states of the rings
        # before the declaration. The later calls find the item, and only continue the switch.
        states_before: list[dict[str, RingState]] = []

        def change(channel: Channel) -> list[RingState]:
            states = state_queues.read_all_locked(channel, topology)
            if not allow_older_file:
                older_topology_files.refuse_older(states.values(), topology)
            if not states_before:
                _make(connection, topology, plan, supervisor)
                _unbind(connection, topology, plan)
                states_before.append(states)
            return _switch(channel, topology, states_before[0], report)

        def start_consumers() -> None:
            if supervisor is not None:
                supervisor.change_topology()

        new_states = repeat_while_full(connection, topology, change, start_consumers)
        switch_notices.notify_consumers(connection, topology, new_states)
        if supervisor is not None:
            supervisor.change_topology()
            exit_after_step("followed")
            leaving = LeavingQueues(connection, topology, emptied)
            if not wait and not is_drained(connection, topology, leaving, progress):
                return False
            await_drained(connection, topology, leaving, progress)
            exit_after_step("drained")
            supervisor.finish()
            exit_after_step("finished")
        with broker.locked(connection, topology):
            all_deleted = _delete(connection, topology, plan, report)
        exit_after_step("deleted")
        # Without a supervisor, nothing has waited until the old generations are drained.
        return all_deleted and (supervisor is not None or not _is_draining(connection, topology))


def _refuse(connection: Connection, topology: Topology, plan: Plan) -> None:
    """Raise a UsageError if a change of the plan is dangerous.

    A dangerous change loses messages, or deletes a queue from which another program consumes.
    """
    used = wait_for_consumers_to_leave(connection, broker.clock(topology), plan.work.used_by_others)
    # For a while, the broker also counts consumers whose connection is lost. A queue is free if it
    # had no other consumers than these. Then only messages in the queue are a danger.
    free = {*plan.work.used_by_others} - {*used}
    dangers = [one for one in plan.dangers if one.messages or one.name not in free]
    if dangers:
        lines = "\n".join(
            f"  {danger.name}: messages: {danger.messages:,}; {danger.reason}" for danger in dangers
        )
        msg = f"nothing was changed, because these changes are dangerous:\n{lines}"
        raise UsageError(msg)


def _make(
    connection: Connection, topology: Topology, plan: Plan, supervisor: Supervisor | None
) -> None:
    """Declare new objects, and replace objects that differ from the topology.

    If the consumers run, `supervisor` stops the consumers of the queues that are replaced.
    """
    names, work = Names(topology), plan.work
    channel = connection.channel()
    project_marks.declare_marks(channel, topology)
    for declared in topology.exchanges.values():
        if names.exchange(declared.name) in work.exchanges:
            staged = staged_bindings.prepare(channel, names, declared)
            channel.exchange_delete(names.exchange(declared.name))
            exit_after_step("exchange-deleted")
            declarations.declare_exchange(channel, names, declared, staged=staged)
    declarations.declare_exchanges(channel, names)
    exit_after_step("exchanges-declared")
    if work.replaced and supervisor is not None:
        supervisor.pause(work.replaced)
        exit_after_step("paused")
    for consumer in work.replaced:
        queue_replacement.QueueReplacement(
            connection, topology, topology.consumer(consumer)
        ).carry_out()
    for queue, retry_queue in work.retry_queues:
        quorum = topology.queues[queue].type == "quorum"
        retry_queue_replacement.park_and_delete(connection, topology, retry_queue, quorum=quorum)
    broker.declare(channel, topology)
    exit_after_step("created")
    for queue, retry_queue in retry_queue_replacement.parked_retry_queues(
        topology, inventory.read_inventory(topology)
    ):
        retry_queue_replacement.unpark(connection, topology, topology.queues[queue], retry_queue)
    for one in work.timer_bindings_to_remove:
        unbind = channel.queue_unbind if one.kind == "queue" else channel.exchange_unbind
        unbind(one.destination, one.source, one.key, arguments=one.arguments)
    timer_objects.restore(channel, names)
    exit_after_step("retries-returned")
    for bound, exchange, key in work.bindings_to_remove:
        channel.queue_unbind(bound, exchange, key)
    exit_after_step("unbound")
    channel.close()


def _unbind(connection: Connection, topology: Topology, plan: Plan) -> None:
    """Unbind the queues that are to be deleted, so that their consumers can empty them.

    Exchanges that no queue needs any more are deleted at once.
    """
    seen = inventory.read_inventory(topology)
    channel = connection.channel()
    unneeded = [one for one in plan.work.deleted_exchanges if not has_role(one, NEEDED_TO_THE_END)]
    for retry_queue in plan.work.deleted_exchanges:
        if has_role(retry_queue, {Role.RETRY}) and retry_queue not in plan.work.nonempty:
            for entry in unneeded:
                retry_queue_replacement.return_retries_to_ring(
                    connection, topology, seen, retry_queue, entry
                )
    for exchange in unneeded:
        channel.exchange_delete(exchange)
    for queue in plan.work.queues_to_empty:
        for binding in seen.bound_to("queue", queue):
            if not has_role(binding.source, NEEDED_TO_THE_END):
                channel.queue_unbind(queue, binding.source, binding.key)
        if queue not in plan.work.nonempty and removed_queues.ends_with_fence(queue):
            removed_queues.mark(channel, Names(topology), queue)
    channel.close()
    exit_after_step("left-behind")


def _switch(
    channel: Channel,
    topology: Topology,
    before: Mapping[str, RingState],
    report: Callable[[str], None],
) -> list[RingState]:
    """Switch the rings that differ from the topology; return the states of all rings.

    Args:
        channel: a channel of the broker.
        topology: the wanted state.
        before: the states of the rings before this `feedbus apply`.
        report: called with a line for each ring whose current generation differs from its
            generation in `before`.

    """
    states = []
    for exchange in topology.exchanges.values():
        if not exchange.hashed:
            continue
        known = before.get(exchange.name)
        state = switch.switch_ring(channel, topology, exchange.name, report)
        if known is None or known.current != state.current:
            report(f"{exchange.name}: publishing switched to generation {state.current.digest}")
        states.append(state)
    exit_after_step("switched")
    return states


def _delete(
    connection: Connection, topology: Topology, plan: Plan, report: Callable[[str], None]
) -> bool:
    """Delete the objects that the plan names, if they are still unused and empty.

    The broker may have changed since the plan was made. So a second plan is made. An object is
    deleted only if both plans name it.

    Returns:
        Whether all queues of the plan are deleted.

    """
    all_deleted, nonempty = True, plan.work.nonempty
    now = make_plan(topology, plan.watchers, delete_nonempty=nonempty, predict=False)
    not_empty = {danger.name for danger in now.dangers} - {*now.work.used_by_others}
    # AMQP does not count expired retries that wait in a quorum queue because their queue is full.
    not_empty |= {
        each.name
        for each in now.changes
        if each.messages and has_role(each.name, {Role.RETRY}) and each.name not in nonempty
    }
    still_deleted = {*now.work.deleted_queues} & {*plan.work.deleted_queues} - not_empty
    wait_for_consumers_to_leave(connection, broker.clock(topology), still_deleted)
    names, channel = Names(topology), connection.channel()
    for queue in plan.work.deleted_queues:
        if queue in not_empty:
            reason = NOT_EMPTY
        elif queue in still_deleted:
            reason = queue_deletion.remove_queue(
                connection, topology, queue, nonempty=queue in nonempty
            )
        elif queue in plan.work.queues_to_empty and not broker.queue_exists(connection, queue):
            reason = ""  # its consumer has deleted it
        else:
            continue  # the new plan does not delete it, for example because a ring contains it now
        if not reason:
            channel.exchange_delete(names.removed(queue))
        all_deleted = all_deleted and not reason
        report(f"{queue} was not deleted: {reason}" if reason else f"{queue} was deleted")
        exit_after_step("queue-removed")
    if any(map(names.is_of_timer, plan.work.deleted_queues)):
        timer_objects.restore(channel, names)
    if all_deleted:  # otherwise the remaining queues may still need the exchanges
        for exchange in plan.work.deleted_exchanges:
            if exchange in now.work.deleted_exchanges:
                channel.exchange_delete(exchange)
    channel.close()
    return all_deleted


def _is_draining(connection: Connection, topology: Topology) -> bool:
    return any(state.draining for state in state_queues.exact_states(connection, topology).values())
