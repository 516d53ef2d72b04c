"""bus.transaction(): its messages commit with the store, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import feedbus
from feedbus.bus import LiveBus
from feedbus.store.outbox_publishing import publish_pending
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.small_topologies import queue
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


def orders(system: System) -> list[int]:
    return [n for (n,) in system.store.database.execute_sql("SELECT n FROM orders ORDER BY n")]


def insert(session, n: int) -> None:
    session.execute_sql("INSERT INTO orders VALUES (?)", (n,))


def test_what_is_published_is_sent_after_the_commit(system, bus) -> None:
    with bus.transaction() as session:
        insert(session, 1)
        bus.publish("work", {"n": 1})
        assert bus.publish_many("work", [({"n": 2}, ""), ({"n": 3}, "")]) == 2
        assert system.ready() == {"work": 0}
        assert numbers(system) == [1, 2, 3]
    assert system.ready() == {"work": 3}
    assert numbers(system) == []
    assert orders(system) == [1]


def test_a_rollback_publishes_nothing(system, bus) -> None:

    def fail() -> None:
        with bus.transaction() as session:
            insert(session, 1)
            bus.publish("work", {"n": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (orders(system), numbers(system), system.ready()) == ([], [], {"work": 0})
    bus.publish("work", {"n": 2})
    assert system.ready() == {"work": 1}


def test_a_nested_transaction_joins_the_outer_one(system, bus) -> None:
    with bus.transaction():
        with bus.transaction() as session:
            insert(session, 1)
            bus.publish("work", {"n": 1})
        assert system.ready() == {"work": 0}
        bus.publish("work", {"n": 2})
    assert system.ready() == {"work": 2}

    def fail() -> None:
        with bus.transaction():
            with bus.transaction():
                bus.publish("work", {"n": 3})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (system.ready(), numbers(system)) == ({"work": 2}, [])


@pytest.mark.parametrize("outer", ["store", "database", "another bus"])
def test_a_transaction_inside_one_that_the_bus_cannot_commit_is_refused(system, bus, outer) -> None:
    with impatient_bus(system) as another:
        begin = {
            "store": system.store.transaction,
            "database": system.store.database.atomic,
            "another bus": another.transaction,
        }[outer]

        def nest() -> None:
            with begin():
                insert(system.store.database, 1)
                with bus.transaction():
                    bus.publish("work", {"n": 1})

        with pytest.raises(feedbus.UsageError, match="begun without this bus"):
            nest()
    assert (orders(system), numbers(system), system.ready()) == ([], [], {"work": 0})


def test_a_transaction_of_one_thread_takes_nothing_of_another(system, bus) -> None:
    with bus.transaction():
        bus.publish("work", {"n": 1})
        other = threading.Thread(target=bus.publish, args=("work", {"n": 2}))
        other.start()
        other.join()
        assert system.ready() == {"work": 1}
        assert numbers(system) == [1]
    assert system.ready() == {"work": 2}


class StoreWithALateCommit:
    """A store that returns from one commit only when it is allowed to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.late = False
        self.committed, self.allowed = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        late, self.late = self.late, False
        with self._store.transaction() as session:
            yield session
        if late:
            self.committed.set()
            assert self.allowed.wait(PATIENCE_SECONDS)


def test_a_thread_sends_no_row_before_an_earlier_row_that_another_thread_has_just_committed(
    system,
) -> None:
    store: Any = StoreWithALateCommit(system.store)
    with feedbus.connect(system.topology, store=store) as bus:

        def publish(n: int) -> None:
            with bus.transaction():
                bus.publish("work", {"n": n})

        publish(0)  # so that the bus has queried the rows of other processes
        store.late = True
        first = threading.Thread(target=publish, args=(1,))
        first.start()
        assert store.committed.wait(PATIENCE_SECONDS)
        second = threading.Thread(target=publish, args=(2,))
        second.start()
        assert bus._transaction_blocks.committed_messages is not None
        waiting = bus._transaction_blocks.committed_messages._locks._registered_keys
        wait_until(lambda: len(waiting) == 2 or not second.is_alive())
        store.allowed.set()
        for thread in (first, second):
            thread.join(PATIENCE_SECONDS)
    assert handled(system) == [0, 1, 2]


def test_a_transaction_that_is_rolled_back_keeps_no_other_waiting(system, bus) -> None:
    def fail() -> None:
        with bus.transaction():
            bus.publish("work", {"n": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with bus.transaction():
        bus.publish("work", {"n": 2})
    assert bus._transaction_blocks.committed_messages._locks._registered_keys == {}
    assert handled(system) == [2]


def test_while_the_broker_is_away_rows_wait_for_the_relay_in_order(
    system, bus, monkeypatch
) -> None:
    broken = broken_broker(monkeypatch)
    broken.append(True)
    with bus.transaction():
        bus.publish("work", {"n": 1}, message_id="one")
    broken.clear()
    with bus.transaction():
        bus.publish("work", {"n": 2})  # not before the first
    assert (system.ready(), numbers(system)) == ({"work": 0}, [1, 2])
    publish_pending(system.store, bus, system.topology.name, older_than_seconds=0.0)
    assert (system.ready(), numbers(system)) == ({"work": 2}, [])
    with bus.transaction():
        bus.publish("work", {"n": 3})
    assert (system.ready(), numbers(system)) == ({"work": 3}, [])


def test_what_comes_back_stays_in_the_outbox_alone(system, bus) -> None:
    with bus.transaction():
        bus.publish_many("work", [({"n": 1}, ""), ({"n": 2}, "unbound"), ({"n": 3}, "")])
    assert (system.ready(), numbers(system)) == ({"work": 2}, [2])


@pytest.mark.parametrize(
    ("exchange", "payload", "error"),
    [("nowhere", {"n": 1}, feedbus.UsageError), ("work", {"n": object()}, feedbus.UsageError)],
)
def test_what_could_never_be_sent_is_refused_before_the_commit(
    system, bus, exchange, payload, error
) -> None:
    with pytest.raises(error), bus.transaction():
        bus.publish(exchange, payload)
    assert numbers(system) == []


PROJECT = """
name = "orders"
[broker]
url = "sqlite:///broker.db"
{store}
[exchanges]
work = {{ type = "direct" }}
[queues.work]
exchange = "work"
routing_keys = [""]
handler = "nowhere:work"
"""


def test_a_program_opens_the_store_of_its_topology(tmp_path: Path) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(PROJECT.format(store='[store]\nurl = "sqlite:///store.db"'))
    with closing_store(), feedbus.connect(file) as bus:
        with bus.transaction() as session:
            session.execute_sql("CREATE TABLE orders (n INTEGER)")
            bus.publish("work", {"n": 1})
        assert System(bus._topology, store=None).ready() == {"work": 1}


def test_a_transaction_without_a_store_says_what_to_add(tmp_path: Path) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(PROJECT.format(store=""))
    with (
        feedbus.connect(file) as bus,
        pytest.raises(feedbus.UsageError, match=r"there is no store: add \[store\]"),
        bus.transaction(),
    ):
        pass


def test_single_messages_and_packs_of_a_transaction_are_sent_in_order(tmp_path: Path) -> None:
    with closing_store():
        system = System.at(tmp_path, queue(), pack=5, stored=True)
        with (
            feedbus.connect(system.topology, store=system.store) as bus,
            bus.transaction(),
        ):
            bus.publish("work", {"n": 1})
            bus.publish_many("work", [({"n": 2}, ""), ({"n": 3}, "")])
            bus.publish("work", {"n": 4})
        assert handled(system) == [1, 2, 3, 4]
