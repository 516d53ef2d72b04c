"""Threads that publish rows of the outbox at the same time, by one relay or one bus."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from feedbus.errors import BrokerOutage, PublishError
from feedbus.store.key_locks import KeyLocks
from feedbus.store.outbox_publishing import publish_pending
from feedbus.store.peewee import PeeweeStore
from feedbus.store.protocol import OutboxRow
from feedbus.store.relay import Relay
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url
from tests.projects import PATIENCE_SECONDS, wait_until


class HeldBus:
    """A bus that refuses some keys, and blocks the messages of one key until it is released."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.refused_once: set[int] = set()
        self.published: list[int] = []
        self.asked: list[int] = []
        self.let_go = threading.Event()
        self.outage: BrokerOutage | None = None

    def selects_shards(self, exchange: str) -> bool:
        return exchange == "orders"

    def publish_rows(self, rows: Sequence[OutboxRow]) -> Sequence[Exception | None]:
        return [self.publish(json.loads(row.payload)["n"], row.key) for row in rows]

    def publish(self, number: int, key: str) -> Exception | None:
        self.asked.append(number)
        if self.outage is not None:
            return self.outage
        if key == "held":
            assert self.let_go.wait(PATIENCE_SECONDS)
        if key in self.refused or number in self.refused_once:
            self.refused_once.discard(number)
            return PublishError([("x", "the queue is full")])
        self.published.append(number)
        return None

    def close(self) -> None: ...


@pytest.fixture
def store(tmp_path) -> Iterator[PeeweeStore]:
    opened = PeeweeStore(f"sqlite:///{tmp_path}/store.db", "shop")
    opened.set_up()
    yield opened
    opened.close()


@pytest.fixture
def bus() -> HeldBus:
    return HeldBus()


@pytest.fixture
def relay(store, bus, tmp_path) -> Relay:
    url = parse_store_url(f"sqlite:///{tmp_path}/store.db")
    broker = parse_broker_url(f"sqlite:///{tmp_path}/broker.db")
    options = StoreOptions(url=url)
    return Relay(Topology("shop", tmp_path / "t.toml", broker, {}, {}, store=options), store, bus)


def rows(store: PeeweeStore, *keys: str) -> list[OutboxRow]:
    first = len(store.outbox.pending()) + 1
    return [store.outbox.put("orders", {"n": first + n}, key) for n, key in enumerate(keys)]


def begun(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def ended(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def test_a_row_that_another_thread_is_sending_is_not_sent_as_one_that_was_left(store, bus, relay):
    bus.refused.add("full")
    relay.publish(rows(store, "other"))  # so that the next call does not query the rows of others
    first, left, last = (rows(store, key) for key in ("held", "full", "held"))
    one = begun(lambda: relay.publish(first))
    wait_until(lambda: 2 in bus.asked)
    relay.publish(left)  # from now on, there may be leftover rows
    other = begun(lambda: relay.publish(last))
    wait_until(lambda: relay._locks._registered_keys)
    bus.let_go.set()
    ended(one, other)
    assert bus.published == [1, 2, 4]


def test_the_relays_own_thread_does_not_repeat_what_another_thread_publishes_slowly(
    store, bus, relay, monkeypatch
):
    monkeypatch.setattr("feedbus.store.relay.IN_FLIGHT_SECONDS", 0.0)
    relay.publish(rows(store, "other"))
    slow, left = rows(store, "held", "held"), rows(store, "left")
    one = begun(lambda: relay.publish(slow))
    wait_until(lambda: 2 in bus.asked)
    relay._publish_leftover_rows()  # the first row is published, not removed yet
    assert bus.published == [1, left[0].id]
    bus.let_go.set()
    ended(one)
    relay._publish_leftover_rows()
    assert bus.published == [1, left[0].id, 2, 3]
    relay._remove_published()
    assert store.outbox.pending() == []


def test_after_an_outage_the_relay_leaves_young_rows_to_the_process_that_added_them(
    store, bus, relay
):
    relay.publish(rows(store, "other"))
    relay._remove_published()
    (theirs,) = rows(store, "theirs")  # another process is sending this row
    later, mine = rows(store, "theirs", "mine")
    bus.outage = BrokerOutage("the broker is unavailable")
    relay.publish([later, mine])
    bus.outage = None
    relay._publish_leftover_rows()
    assert bus.published == [1, json.loads(mine.payload)["n"]]
    store.outbox.remove([theirs.id])
    relay._is_unavailable = True
    relay._publish_leftover_rows()
    assert bus.published[2:] == [json.loads(later.payload)["n"]]


def test_a_key_that_a_thread_has_used_is_left_out_of_the_whole_run_of_the_relay(store, bus, relay):
    bus.refused.add("full")
    relay.publish(rows(store, "other"))
    first, later = rows(store, "full", "held"), rows(store, "full")
    one = begun(lambda: relay.publish(first))
    wait_until(lambda: 3 in bus.asked)
    choose = relay._leave_out_published()
    assert choose(first) == []
    bus.let_go.set()
    ended(one)
    assert choose(later) == []  # the first row of its key was refused
    assert relay._leave_out_published()([*first, *later]) == [first[0], *later]


def test_a_refused_row_holds_back_the_row_of_another_thread_with_its_key(store, bus, relay):
    bus.refused.add("full")
    relay.publish(rows(store, "other"))
    first, last = rows(store, "full", "held"), rows(store, "full")
    one = begun(lambda: relay.publish(first))
    wait_until(lambda: 3 in bus.asked)
    bus.refused.clear()  # there is room again, but the first row is still in the outbox
    other = begun(lambda: relay.publish(last))
    wait_until(lambda: relay._locks._registered_keys)
    bus.let_go.set()
    ended(one, other)
    assert bus.published == [1, 3, 2, 4]


def test_a_refused_row_holds_back_the_later_rows_of_its_key_in_the_same_call(store, bus, relay):
    entries = rows(store, "a", "b", "a", "b")
    bus.refused_once.add(1)  # the broker would accept the third row
    relay.publish(entries)
    assert bus.published == [2, 4]
    relay._remove_published()
    publish_pending(store, bus, "shop", older_than_seconds=0.0)
    assert bus.published == [2, 4, 1, 3]


def test_the_lock_of_a_key_is_given_in_the_order_of_rows_and_other_keys_are_free():
    locks, order, let_go = KeyLocks(), [], threading.Event()

    def work(row: int, *keys: str) -> None:
        with locks.hold(row, [("orders", key) for key in keys]):
            order.append(row)
            assert row > 1 or let_go.wait(PATIENCE_SECONDS)

    first = begun(lambda: work(1, "a", "b"))
    wait_until(lambda: order == [1])
    late = begun(lambda: work(5, "b"))
    wait_until(lambda: len(locks._registered_keys) == 1)
    early = begun(lambda: work(3, "a", "b"))
    wait_until(lambda: len(locks._registered_keys) == 2)
    work(7, "c")
    let_go.set()
    ended(first, late, early)
    assert order == [1, 7, 3, 5]


def test_threads_do_not_wait_for_the_rows_of_an_interrupted_thread() -> None:
    locks = KeyLocks()
    first, second = ("orders", "first"), ("orders", "second")
    got_second = threading.Event()

    def hold_second() -> None:
        with locks.hold(3, [second]):
            got_second.set()

    waiting = threading.Thread(target=hold_second, daemon=True)

    def interrupt() -> None:
        waiting.start()
        wait_until(lambda: 3 in locks._registered_keys)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with locks.hold(1, [first]):
        threading.Timer(0.1, interrupt).start()
        with pytest.raises(KeyboardInterrupt), locks.hold(2, [first, second]):
            pass
        assert got_second.wait(PATIENCE_SECONDS)
    waiting.join(PATIENCE_SECONDS)
