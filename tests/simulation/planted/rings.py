"""Faults of the switch of rings, and what drains the old queues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from feedbus.broker_names import Names
from feedbus.dispatch import (
    positions,
    waiting_records,
)
from feedbus.generations import (
    consumer_queues,
    held_messages,
    predecessors,
    probes,
    queue_emptying,
    state_queues,
    switch,
    switch_notices,
)
from feedbus.runner import (
    old_queue_tracking,
    queue_reader,
    runner,
    waiting_queue,
    waiting_queues,
    waiting_record_mover,
)
from tests.simulation.planted.change import Change, edited


def lost_fences() -> list[Change]:
    """Put no fence at the end of an old queue."""
    return [(switch_notices, "put_fences", lambda *_: None)]


def messages_on_their_way_not_awaited() -> list[Change]:
    """End the move of held messages although the broker has sent some that have not arrived."""

    def end_consumer(self: Any) -> bool:
        self._channel.basic_cancel(self._tag)
        return False

    return [(queue_emptying.QueueEmptier, "_end_consumer", end_consumer)]


def a_new_ring_read_too_soon() -> list[Change]:
    """Let records of new queues wait for no old queue."""
    return [
        (consumer_queues.ConsumerQueues, "_await_drained", lambda *_: True),
        (predecessors.Predecessors, "queues_before", lambda *_: frozenset()),
    ]


def a_queue_taken_for_deleted() -> list[Change]:
    """Take the old queues that records wait for, for deleted ones."""

    def find(self: Any, _raw: Any) -> None:
        self._deleted_queues = sorted(self._waiting.awaited_queues)

    return [(old_queue_tracking.SwitchProgress, "_find_deleted", find)]


def moved_records_behind_others() -> list[Change]:
    """Number the positions of waiting records without regard to generations."""
    original = positions.Positions.next
    return [(positions.Positions, "next", lambda self, _generation_number: original(self, 0))]


def copies_before_their_records() -> list[Change]:
    """Let the copy of a waiting record, in a newer queue, block the record in the older one."""

    original = waiting_records.WaitingRecords._add_message

    def add_message(self: Any, known: Any, message: Any) -> Any:
        if known.queue == message.queue:
            return original(self, known, message)
        self.add(message)
        return []

    return [(waiting_records.WaitingRecords, "_add_message", add_message)]


def old_rings_passed_over() -> list[Change]:
    """Assign no old queue to any consumer."""
    return [(consumer_queues.ConsumerQueues, "_share", lambda *_: [])]


def held_messages_forgotten() -> list[Change]:
    """Leave what arrived between two rings where it is held."""
    return [(switch, "append_held", lambda *_: None)]


def held_messages_behind_the_switch() -> list[Change]:
    """Append held messages to the new ring instead of the old ring."""
    original = switch.append_held

    def append(channel: Any, names: Any, exchange: str, generations: Any) -> None:
        original(channel, names, exchange, generations[-1:])

    return [(switch, "append_held", append)]


def queues_deleted_without_proof() -> list[Change]:
    """Take an old queue for empty at its first fence."""
    return [
        (probes, "NEEDED_PROBES", 0),
        (probes.Probes, "is_proved", property(lambda _: True)),
        (queue_reader.QueueReader, "_count", lambda _: (0, 1)),
    ]


def owed_fences_forgotten() -> list[Change]:
    """Put no fence later that a full queue has refused."""
    return [(probes.Probes, "is_fence_due", property(lambda _: False))]


def a_ring_connected_before_the_old_one_is_disconnected() -> list[Change]:
    """Route messages to both rings for a moment."""
    connect, disconnect = switch._connect, switch._disconnect
    old: list[Any] = []

    def connect_both(channel: Any, names: Any, generation: Any) -> None:
        connect(channel, names, generation)
        switch.exit_after_step("connected")
        while old:
            disconnect(channel, names, old.pop())

    return [
        (switch, "_disconnect", lambda _channel, _names, generation: old.append(generation)),
        (switch, "_connect", connect_both),
    ]


def held_messages_settled_before_they_are_moved() -> list[Change]:
    """Acknowledge what arrived between two rings before it is in a ring."""

    def move_late(self: Any) -> bool:
        came = False
        while self._receive():
            came = True
            if self._move is None:
                break
            taken = [
                self._received.popleft() for _ in range(min(self._at_once, len(self._received)))
            ]
            self._channel.basic_ack(taken[-1].delivery_tag, multiple=True)
            self._move(taken)
        return came

    return [(queue_emptying.QueueEmptier, "_drain", move_late)]


def held_messages_behind_the_oldest_ring() -> list[Change]:
    """Append held messages to the oldest of several old rings."""
    original = switch.append_held

    def append(channel: Any, names: Any, exchange: str, generations: Any) -> None:
        state = state_queues.read_locked(channel, names.topology, exchange)
        draining = state.draining if state is not None else ()
        original(channel, names, exchange, (*draining[:1], generations[-1]))

    return [(switch, "append_held", append)]


def switches_settled_before_held_messages_move() -> list[Change]:
    """Record that a switch is complete before the held messages are in the old ring."""

    def carry_out(channel: Any, names: Any, state: Any) -> Any:
        state = state_queues.write(channel, names, state)
        switch.exit_after_step("written")
        for old in state.draining:
            switch._disconnect(channel, names, old)
        switch.exit_after_step("disconnected")
        switch._connect(channel, names, state.current)
        switch.exit_after_step("connected")
        state = state_queues.write(channel, names, replace(state, switch_complete=True))
        switch.exit_after_step("completed")
        generations = (*state.draining[-1:], state.current)
        switch.append_held(channel, names, state.current.exchange, generations)
        switch.exit_after_step("appended")
        return state

    return [(switch, "_carry_out", carry_out)]


def records_released_before_the_moved_ones() -> list[Change]:
    """Release the records of a deleted queue before the moved ones have arrived."""
    return [(waiting_queues.WaitingQueues, "check_probes", lambda _: True)]


def incomplete_waiting_queues_moved() -> list[Change]:
    """Move the waiting records of a queue before all of them have arrived."""
    return [(waiting_queue.WaitingQueue, "is_complete", lambda _: True)]


def queues_kept_while_others_read_them() -> list[Change]:
    """Wait for the end of a queue although another consumer reads it, too."""
    return [(queue_reader.QueueReader, "count_consumers", lambda _: 1)]


def other_old_rings_forgotten() -> list[Change]:
    """Remove all old rings from the state with the first that is drained."""
    original = switch.forget_drained

    def forget(channel: Any, topology: Any, generation: Any) -> None:
        original(channel, topology, generation)
        state = state_queues.read_locked(channel, topology, generation.exchange)
        if state is not None and state.draining:
            state_queues.write(channel, Names(topology), replace(state, draining=()))

    return [(switch, "forget_drained", forget)]


def old_rings_drained_from_the_latest() -> list[Change]:
    """Read a newer old ring before an older one."""
    original = consumer_queues.ConsumerQueues.lists_to_read

    def queues(self: Any, connection: Any) -> Iterator[Any]:
        if self._state is not None and not self.reads_all_at_once:
            self._state = replace(self._state, draining=self._state.draining[::-1])
        yield from original(self, connection)

    return [(consumer_queues.ConsumerQueues, "lists_to_read", queues)]


def records_of_a_waiting_queue_that_is_not_read_kept() -> list[Change]:
    """Keep the records of a waiting queue whose subscription has ended."""

    def close(self: Any) -> None:
        self.is_closed = True
        if self.channel.is_open:
            self.channel.close()

    return [(waiting_queue.WaitingQueue, "close", close)]


def fences_acknowledged_before_the_next_probe() -> list[Change]:
    """Acknowledge the fence of an old queue before the next probe is in the queue."""

    def publish_next_probe(self: Any) -> None:
        if self.last_fence_tag:
            self.channel.basic_ack(self.last_fence_tag)
            self.last_fence_tag = 0
        if not self.probes.is_pending or self.probes.is_lost:
            self.probes.put_probe()

    return [(queue_reader.QueueReader, "_publish_next_probe", publish_next_probe)]


def keys_that_wait_for_the_last_old_ring_only() -> list[Change]:
    """Let a record wait for the queue of its key in the latest of several old rings."""
    owner, united = predecessors.Predecessors, "queues = queues.union("
    return edited(owner, "queues_before", united, "queues = frozenset(")


def probes_before_the_search_for_deleted_queues() -> list[Change]:
    """Put the probes before it is known which old queues are deleted."""
    original = old_queue_tracking.SwitchProgress._find_deleted

    def find(self: Any, raw: Any) -> None:
        self._waiting.put_probes()
        put = self._waiting.put_probes
        self._waiting.put_probes = lambda: None
        try:
            original(self, raw)
        finally:
            self._waiting.put_probes = put

    return [(old_queue_tracking.SwitchProgress, "_find_deleted", find)]


def records_released_without_probes() -> list[Change]:
    """Release the records of a deleted queue without a probe behind the moved ones."""
    owner = old_queue_tracking.SwitchProgress
    return edited(owner, "_find_deleted", "self._waiting.put_probes()", "pass")


def waiting_queues_moved_without_a_probe() -> list[Change]:
    """Move the waiting records of a queue without a probe behind them."""
    owner = waiting_queue.WaitingQueue
    return edited(owner, "is_complete", "self.probes.put_probe()", "pass")


def messages_within_a_proof_ignored() -> list[Change]:
    """Take a queue for empty although a message has come between two probes."""
    owner, restarted = queue_reader.QueueReader, "self.probes.restart_proof()"
    return edited(owner, "settle_done", restarted, "pass")


def single_messages_disconnected_before_packs() -> list[Change]:
    """Hold plain messages of an old ring while packs are still routed to it."""
    original = switch._disconnect

    def disconnect(channel: Any, names: Any, generation: Any) -> None:
        entry = names.exchange(generation.exchange)
        channel.exchange_unbind(names.ring(generation), entry, "")
        original(channel, names, generation)

    return [(switch, "_disconnect", disconnect)]


def the_first_generation_between_ignored() -> list[Change]:
    """Move waiting records past records of their keys in the queues of the next generation."""
    owner = waiting_record_mover.WaitingRecordMover
    return edited(owner, "_find_targets", "for each in old[1:]", "for each in old[2:]")


def refused_probes_taken_for_returned_ones() -> list[Change]:
    """Take a waiting queue for read whose probe the broker has refused."""
    refused = " or waiting_queue.probes.fence_needed"
    return edited(waiting_queue.WaitingQueue, "open", refused)


def records_handled_after_a_cancelled_subscription() -> list[Change]:
    """Handle what has arrived although the broker has cancelled a subscription."""
    return edited(runner.Runner, "_read", "if not self._subscriptions.cancelled:", "if True:")


def held_messages_of_full_queues_moved_together() -> list[Change]:
    """Move several held messages at once although a full queue can refuse one of them."""
    one = "at_once = 1 if one_by_one else MAX_AT_ONCE"
    ((_, name, append_held),) = edited(held_messages, "append_held", one, "at_once = MAX_AT_ONCE")
    return [(switch, name, append_held)]
