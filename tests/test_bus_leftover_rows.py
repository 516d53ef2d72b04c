"""Rows that a program has left in the outbox: sent before later messages of their keys."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import feedbus
from feedbus.broker.refused_messages import Refusal
from feedbus.bus import LiveBus, committed_messages
from feedbus.bus.sender import Sender
from feedbus.bus.shared_sender import SharedSender
from feedbus.clock import SYSTEM
from feedbus.dispatch.publications import Publications
from feedbus.errors import StoreOutage
from feedbus.generations import topology_setup
from feedbus.records.packs import pack_of_one
from feedbus.store import leftover_rows
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.store.outbox_publishing import publish_pending
from feedbus.store.peewee import PeeweeStore
from feedbus.store.relay import Relay
from feedbus.wire import Outgoing
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.small_topologies import queue, sharded
from tests.system_fixtures import closing_store
from tests.systems import System
from tests.transactions import broken_broker, handled, impatient_bus, numbers, system_with_orders


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with system_with_orders(tmp_path) as made:
        yield made


@pytest.fixture
def bus(system: System) -> Iterator[LiveBus]:
    with impatient_bus(system) as bus:
        yield bus


def leave(system: System, *numbers: int) -> None:
    """Leave rows in the outbox, as a program that was killed after its commit some time ago."""
    outbox = system.store.outbox
    with system.store.transaction():
        for number in numbers:
            outbox.put("work", {"n": number})
    system.store.database.execute_sql(
        "UPDATE feedbus_outbox SET created_at = created_at - 60000000"
    )


def publish(bus: LiveBus, number: int) -> None:
    """Publish a record in a transaction."""
    with bus.transaction():
        bus.publish("work", {"n": number})


def test_what_a_killed_program_has_left_is_sent_before_later_messages_of_its_key(
    system, bus
) -> None:
    leave(system, 1, 2)
    publish(bus, 3)
    publish(bus, 4)
    assert (handled(system), numbers(system)) == ([1, 2, 3, 4], [])


def test_a_commit_whose_answer_was_lost_is_sent_before_later_messages_of_its_key(
    system, bus, monkeypatch
) -> None:
    publish(bus, 1)
    transaction = system.store.transaction

    @contextmanager
    def lose_answer() -> Iterator[object]:
        outermost = not system.store.database.in_transaction()
        with transaction() as session:
            yield session
        if outermost:
            msg = "the store went away during the commit"
            raise StoreOutage(msg)

    with monkeypatch.context() as patched:
        patched.setattr(system.store, "transaction", lose_answer)
        with pytest.raises(StoreOutage):
            publish(bus, 2)
    publish(bus, 3)
    assert (handled(system), numbers(system)) == ([1, 2, 3], [])


def test_of_two_threads_that_publish_one_key_the_one_that_committed_first_sends_first(
    system, bus, monkeypatch
) -> None:
    sends, let_go = [], threading.Event()
    send_together = SharedSender.send_together

    def send(self, requests, **options) -> None:
        sends.append(requests)
        if len(sends) == 1:
            assert let_go.wait(PATIENCE_SECONDS)
        send_together(self, requests, **options)

    monkeypatch.setattr(SharedSender, "send_together", send)
    threads = [threading.Thread(target=publish, args=(bus, number)) for number in (1, 2)]
    threads[0].start()
    wait_until(lambda: sends)
    threads[1].start()
    wait_until(
        lambda: len(sends) > 1 or bus._transaction_blocks.committed_messages._locks._registered_keys
    )
    let_go.set()
    for thread in threads:
        thread.join()
    assert handled(system) == [1, 2]


def test_rows_of_a_pack_that_a_full_queue_refuses_stay_in_the_outbox(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = queue(max_length=1, overflow="reject-publish", once=True)
    with closing_store():
        system = System.at(tmp_path, full, pack=5)
        with feedbus.connect(system.topology, store=system.store, timeout_seconds=0.1) as bus:
            bus.publish("work", {"n": 0})
            with bus.transaction():
                bus.publish_many("work", [({"n": n}, "") for n in (1, 2, 3)])
            assert numbers(system) == [1, 2, 3]
            assert "event=outbox_messages_left" in caplog.text
            assert "event=outbox_message_refused" not in caplog.text
            assert handled(system) == [0]
            for _ in (1, 2, 3):
                publish_pending(system.store, bus, system.topology.name, older_than_seconds=0.0)
                handled(system)
        assert (system.seen, numbers(system)) == ([0, 1, 2, 3], [])
        assert "event=outbox_message_refused" in caplog.text


@pytest.mark.parametrize("refused", ["plain", "pack"])
def test_a_transaction_sends_no_message_behind_a_refused_one_of_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    full = queue(max_length=1, overflow="reject-publish", once=True)
    original = Sender.send

    def send(self: Sender, messages: Iterable[Outgoing]) -> list[Refusal]:
        refusals = original(self, messages)
        if refusals:
            handled(system)  # the queue has room for the next message
        return refusals

    with closing_store():
        system = System.at(tmp_path, full, pack=5)
        with feedbus.connect(system.topology, store=system.store, timeout_seconds=0.1) as bus:
            bus.publish("work", {"n": 0})
            monkeypatch.setattr(Sender, "send", send)
            with bus.transaction():
                if refused == "plain":
                    bus.publish("work", {"n": 1})
                else:
                    bus.publish_many("work", [({"n": 1}, ""), ({"n": 1}, "")])
                bus.publish_many("work", [({"n": n}, "") for n in (2, 3)])
                bus.publish("work", {"n": 4})
            assert system.seen == [0]
            assert numbers(system)[-3:] == [2, 3, 4]
            for _ in range(5):
                publish_pending(system.store, bus, system.topology.name, older_than_seconds=0.0)
                handled(system)
        assert [*dict.fromkeys(system.seen)] == [0, 1, 2, 3, 4]
        assert numbers(system) == []


def test_a_row_stays_in_the_outbox_if_its_pack_is_for_an_old_ring_and_the_new_shard_is_full(
    tmp_path: Path,
) -> None:
    full = {"max_length": 1, "overflow": "reject-publish"}
    with closing_store():
        system = System.at(tmp_path, queue(once=True), sharded(1, **full), pack=3)
        sender = Sender(system.topology, nacked_seconds=0.0)  # it knows only the first ring
        after = replace(system.topology, queues={"shard": sharded(2, **full)})
        topology_setup.set_up(after)
        with LiveBus(after) as bus:
            bus.publish("ring", {"n": 0}, "k")
        with system.store.transaction():
            for number in (1, 2):
                own_id = f"{number:024x}-0"  # as a handler with `once` gives: it can be in a pack
                system.store.outbox.put("ring", {"n": number}, "k", message_id=own_id)
        system.store.database.execute_sql(
            "UPDATE feedbus_outbox SET created_at = created_at - 60000000"
        )
        leftovers = LeftoverRows(system.store, system.topology.name, SYSTEM)
        publications = Publications(sender, system.store, leftovers)
        with system.store.transaction():
            publications.collect("ring", pack_of_one("m-3", "k", {"n": 3}))
        publications.send()
        sender.close()
        assert numbers(system) == [1, 2, 3]


def test_a_refused_row_is_not_overtaken_by_rows_of_a_later_round(tmp_path: Path) -> None:
    with closing_store():
        system = System.at(tmp_path, queue(max_length=1, overflow="reject-publish", once=True))
        with feedbus.connect(system.topology, store=system.store, timeout_seconds=0.1) as bus:
            leave(system, 1, 2)
            bus.publish("work", {"n": 0})
            rounds: list[int] = []

            def choose(rows):
                if rounds:
                    handled(system)  # there is room for the second row
                rounds.append(len(rows))
                return rows

            for _ in range(3):
                publish_pending(
                    system.store,
                    bus,
                    system.topology.name,
                    limit=1,
                    older_than_seconds=0.0,
                    choose=choose,
                )
                handled(system)
    assert system.seen == [0, 1, 2]


def test_a_left_row_is_remembered_when_rows_of_others_are_looked_for(system) -> None:
    left = leftover_rows.LeftoverRows(system.store, system.topology.name, SYSTEM)
    with system.store.transaction():
        sent, refused = (system.store.outbox.put("work", {"n": n}).id for n in (1, 2))
        system.store.outbox.remove([sent])
    left.add([refused])
    left.query_again()
    assert not left.may_contain(sent)  # a thread sends the first row although the second is left
    assert left.may_exist


@pytest.mark.parametrize("registered_by", ["add", "query_again"])
def test_a_row_that_is_registered_during_a_query_that_cannot_find_it_is_sent_first(
    postgres, monkeypatch, registered_by
) -> None:
    url = postgres.new_database()
    store, other = PeeweeStore(url, "shop"), PeeweeStore(url, "shop")
    store.set_up()
    outbox = type(store.outbox)
    pending = outbox.pending
    left = LeftoverRows(store, "shop", SYSTEM)
    reads: list[int] = []
    uncommitted = ExitStack()
    uncommitted.enter_context(other.transaction())
    late = other.outbox.put("work", {"n": 1}).id
    with store.transaction():
        sent, new = (store.outbox.put("work", {"n": n}).id for n in (2, 3))
        store.outbox.remove([sent])
    left.may_contain(sent)
    left.add([sent])

    def commit_after_first_read(self, *arguments: int, **options: int):
        rows = pending(self, *arguments, **options)
        reads.append(len(rows))
        if len(reads) == 1:
            uncommitted.close()
            if registered_by == "add":
                left.add([late])
            else:
                left.query_again()
                assert left.may_contain(sent)
        return rows

    monkeypatch.setattr(outbox, "pending", commit_after_first_read)
    assert not left.may_contain(sent)
    assert reads[0] == 0
    with left.hold_earlier(new, new) as earlier:
        assert [row.id for row in earlier or ()] == [late]
    store.close()
    other.close()
    postgres.drop_database(url)


def test_a_row_that_another_program_is_sending_is_not_sent_with_own_leftover_rows(
    system, bus, monkeypatch
) -> None:
    monkeypatch.setattr(committed_messages, "RETRY_SECONDS", 0.0)
    with impatient_bus(system) as other:
        for each in (bus, other):
            publish(each, 0)  # so that the bus has queried the rows of other programs
        sends, let_go = [], threading.Event()
        send_together = SharedSender.send_together

        def send(self, requests, **options) -> None:
            if self is other._shared_sender:
                sends.append(requests)
                assert let_go.wait(PATIENCE_SECONDS)
            send_together(self, requests, **options)

        monkeypatch.setattr(SharedSender, "send_together", send)
        thread = threading.Thread(target=publish, args=(other, 1))
        thread.start()
        wait_until(lambda: sends)
        with monkeypatch.context() as patched:
            broken_broker(patched).append(True)
            publish(bus, 2)
        threading.Timer(0.2, let_go.set).start()
        publish(bus, 3)
        thread.join()
    assert (handled(system), numbers(system)) == ([0, 0, 1, 2, 3], [])


def test_rows_that_the_process_sends_itself_do_not_hide_leftover_rows(system, monkeypatch) -> None:
    monkeypatch.setattr(leftover_rows, "MAX_ROWS", 3)
    leave(system, 1, 2, 3, 4)
    ids = [row.id for row in system.store.outbox.pending()]
    with system.store.transaction():
        new = system.store.outbox.put("work", {"n": 5}).id
    left = LeftoverRows(system.store, system.topology.name, SYSTEM)
    left.register_sender(system, ids[:2])
    with left.hold_earlier(new, new) as earlier:
        assert [row.id for row in earlier or ()] == ids[2:]


def test_rows_of_other_keys_are_left_to_the_relay(system, bus) -> None:
    leave(system, 1)
    with bus.transaction():
        bus.publish("work", {"n": 2}, "unbound")
    assert numbers(system) == [1, 2]
    publish(bus, 3)
    assert (handled(system), numbers(system)) == ([1, 3], [2])


def test_a_program_that_publishes_steadily_sends_at_once_again_after_an_outage(
    system, bus, monkeypatch
) -> None:
    broken = broken_broker(monkeypatch)
    monkeypatch.setattr(committed_messages, "RETRY_SECONDS", 0.0)
    broken.append(True)
    for number in (1, 2):
        publish(bus, number)
    assert numbers(system) == [1, 2]
    broken.clear()
    for number in (3, 4):
        publish(bus, number)  # no relay runs
        assert numbers(system) == []
    assert handled(system) == [1, 2, 3, 4]


def test_while_the_relay_works_later_messages_stay_behind_what_it_sends(
    system, bus, monkeypatch
) -> None:
    monkeypatch.setattr(leftover_rows, "LOCK_SECONDS", 0.0)
    leave(system, 1)
    with system.store.exclusive(f"relay.{system.topology.name}"):
        publish(bus, 2)
    assert numbers(system) == [1, 2]
    publish(bus, 3)
    assert (handled(system), numbers(system)) == ([1, 2, 3], [])


def test_a_relay_in_a_program_sends_what_was_left_before_new_rows(system, bus) -> None:
    leave(system, 1)
    relay = Relay(system.topology, system.store, bus)
    with system.store.transaction():
        entry = system.store.outbox.put("work", {"n": 2})
    relay.publish([entry])
    assert handled(system) == [1, 2]
