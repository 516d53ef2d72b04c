"""The interface of a store: outbox, inbox, relay, transactions, and which errors are outages."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import peewee
import pytest

from feedbus.errors import Outage, PublishError, UsageError
from feedbus.store import NoStore, open_store, ping
from feedbus.store.outbox_publishing import publish_and_remove, publish_pending
from feedbus.store.peewee import (
    PeeweeStore,
    bind,
    bound,
    close_bound,
    database,
    transaction,
)
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url
from servers.ports import free_port
from tests.projects import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
AWAY = Outage("the broker is unavailable")


class ListBus:
    """Keeps the published messages; refuses some keys, or is unavailable."""

    def __init__(self, refused: tuple[str, ...] = (), *, away_after: int | None = None) -> None:
        self.published: list[tuple[str, dict, str, str | None]] = []
        self.refused, self.away_after = refused, away_after
        self.waves: list[list[int]] = []

    def close(self):
        """Do nothing: there is no connection."""

    def selects_shards(self, exchange):
        return exchange == "ring"

    def publish_rows(self, rows):
        self.waves.append([json.loads(row.payload).get("n") for row in rows])
        return list(map(self.publish, rows))

    def publish(self, row):
        if self.away_after is not None and len(self.published) >= self.away_after:
            return AWAY
        if row.key in self.refused:
            return PublishError([(row.message_id, "nacked")])
        self.published.append((row.exchange, json.loads(row.payload), row.key, row.message_id))
        return None


def outbox_rows() -> int:
    return len(bound().outbox.pending(1_000_000))


def roll_back(work) -> None:
    """Do work in a transaction that fails afterwards."""

    def fail():
        with transaction():
            work()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()


def test_an_outbox_row_commits_with_its_cause_or_not_at_all(store_url):
    roll_back(lambda: bound().outbox.put("publish_tweet", {"id": 1}))
    assert bound().outbox.pending() == []
    with transaction():
        entry = bound().outbox.put("publish_tweet", {"id": 1, "text": "née 🙂"}, "key")
    assert bound().outbox.pending() == [entry]


def test_the_relay_publishes_what_is_left_in_order_under_the_ids_of_the_rows(store_url):
    with transaction():
        entries = [bound().outbox.put("publish_tweet", {"n": n}, "k") for n in range(5)]
    bus = ListBus()
    assert publish_pending(bound(), bus, "shop", limit=2, older_than_seconds=0) == 5
    assert [payload["n"] for _, payload, _, _ in bus.published] == [0, 1, 2, 3, 4]
    assert [found[3] for found in bus.published] == [entry.message_id for entry in entries]
    assert outbox_rows() == 0


def test_a_row_published_again_after_a_crash_keeps_its_message_id(store_url):
    bound().outbox.put("publish_tweet", {"n": 1})
    first, second = ListBus(), ListBus()
    publish_and_remove(bound(), first, bound().outbox.pending())
    bound().outbox.put("publish_tweet", {"n": 1}, message_id=first.published[0][3])
    publish_pending(bound(), second, "shop", older_than_seconds=0)
    assert second.published[0][3] == first.published[0][3]


@pytest.mark.parametrize(
    ("key", "message_id"), [("a\0b", None), ("k" * 256, None), ("k", "a\0b"), ("k", "m" * 255)]
)
def test_a_text_that_a_message_cannot_have_is_refused(store_url, key, message_id):
    with bound().transaction(), pytest.raises(UsageError, match="cannot publish: expected a"):
        bound().outbox.put("publish_tweet", {"n": 1}, key, message_id=message_id)
    assert bound().outbox.pending() == []


def test_the_relay_leaves_young_rows_to_those_who_put_them(store_url):
    bound().outbox.put("publish_tweet", {"n": 1})
    assert publish_pending(bound(), ListBus(), "shop", older_than_seconds=60) == 0
    assert outbox_rows() == 1


@pytest.mark.parametrize("older_than_seconds", [0, 60])
def test_rows_from_before_the_clock_was_set_back_an_hour_are_relayed(store_url, older_than_seconds):
    bound().outbox.put("publish_tweet", {"n": 1})
    bound().execute("UPDATE feedbus_outbox SET created_at = created_at + 3600000000", {})
    assert publish_pending(bound(), ListBus(), "shop", older_than_seconds=older_than_seconds) == 1
    assert outbox_rows() == 0


@pytest.mark.parametrize("hours", [-1, 1])
def test_no_row_passes_a_younger_row_of_its_key_that_was_added_before(store_url, hours):
    for n, key in enumerate(["a", "a", "b", "b", "b"]):
        bound().outbox.put("publish_tweet", {"n": n}, key)
    moved = f"created_at + {hours * 3_600_000_000}"
    ids = [entry.id for entry in bound().outbox.pending()]
    sql = f"UPDATE feedbus_outbox SET created_at = {moved} WHERE id = :id"
    for row in (ids[1], ids[2]):
        bound().execute(sql, {"id": row})
    bus = ListBus()
    assert publish_pending(bound(), bus, "shop", older_than_seconds=60) == 1
    assert [payload["n"] for _, payload, _, _ in bus.published] == [2]


def test_no_row_passes_a_younger_row_of_its_key_if_another_key_has_very_many_rows(store_url):
    many = 10_001  # more than one query reads
    with transaction():
        bound().outbox.put("publish_tweet", {"n": 0}, "many")
        bound().outbox.put_many("publish_tweet", (("many", {}, f"{n}") for n in range(many)))
        young, last = (bound().outbox.put("publish_tweet", {"n": n}, "few").id for n in (1, 2))
    first = bound().outbox.pending(1)[0].id
    sql = "UPDATE feedbus_outbox SET created_at = created_at - 3600000000 WHERE id IN (:a, :b)"
    bound().execute(sql, {"a": first, "b": last})
    bus = ListBus()
    assert publish_pending(bound(), bus, "shop", older_than_seconds=60) == 1
    assert [payload["n"] for _, payload, _, _ in bus.published] == [0]
    assert young in {row.id for row in bound().outbox.pending(many + 2)}


def test_a_refused_row_holds_back_its_own_key_alone(store_url):
    for n, key in enumerate(["bad", "good", "bad", "good"]):
        bound().outbox.put("publish_tweet", {"n": n}, key)
    bus = ListBus(refused=("bad",))
    assert publish_pending(bound(), bus, "shop", limit=10, older_than_seconds=0) == 2
    assert [payload["n"] for _, payload, _, _ in bus.published] == [1, 3]
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":0}', '{"n":2}']


def test_rows_of_different_keys_are_published_together_and_those_of_a_key_one_by_one(store_url):
    for n, key in enumerate(["a", "b", "a", "c", "a"]):
        bound().outbox.put("ring", {"n": n}, key)
    bus = ListBus()
    assert publish_pending(bound(), bus, "shop", older_than_seconds=0) == 5
    assert bus.waves == [[0, 1, 3], [2], [4]]


def test_without_shards_only_the_first_row_of_a_key_is_published_before_the_others(store_url):
    for n, key in enumerate(["", "", "k", "", "k", ""]):
        bound().outbox.put("publish_tweet", {"n": n}, key)
    bus = ListBus(refused=("k",))
    assert publish_pending(bound(), bus, "shop", older_than_seconds=0) == 4
    assert bus.waves == [[0, 2], [1, 3, 5]]


def test_a_broker_that_goes_away_leaves_the_rows_it_did_not_confirm(store_url):
    for n in range(3):
        bound().outbox.put("publish_tweet", {"n": n})
    with pytest.raises(Outage):
        publish_pending(bound(), ListBus(away_after=1), "shop", older_than_seconds=0)
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":1}', '{"n":2}']


def test_one_relay_works_at_a_time(store_url):
    bound().outbox.put("publish_tweet", {"n": 1})
    other = PeeweeStore(store_url, "shop")
    inside, result = threading.Event(), []

    def publish_elsewhere():
        inside.wait(PATIENCE_SECONDS)
        result.append(publish_pending(other, ListBus(), "shop", older_than_seconds=0))

    thread = threading.Thread(target=publish_elsewhere)
    thread.start()
    with bound().exclusive("relay.shop") as held:
        assert held
        inside.set()
        thread.join(PATIENCE_SECONDS)
    other.close()
    assert result == [0]
    assert publish_pending(bound(), ListBus(), "shop", older_than_seconds=0) == 1


def test_many_rows_are_put_in_order_and_removed_by_their_ids(store_url):
    with transaction():
        ids = bound().outbox.put_many("x", ((str(n), {"n": n}, f"id-{n}") for n in range(2500)))
    assert [entry.message_id for entry in bound().outbox.pending(limit=5000)] == [
        f"id-{n}" for n in range(2500)
    ]
    assert bound().outbox.remove(ids[:2499]) == 2499
    (left,) = bound().outbox.pending()
    assert (left.key, left.payload, left.message_id) == ("2499", '{"n":2499}', "id-2499")
    assert bound().outbox.put_many("x", []) == []


def test_the_inbox_distinguishes_new_messages_from_repeats_and_doubles(store_url):
    with transaction():
        assert bound().inbox.add_new("q", ["b", "a", "b"]) == ["b", "a"]
    with transaction():
        assert bound().inbox.add_new("q", ["a", "c"]) == ["c"]
        assert bound().inbox.add_new("other", ["a"]) == ["a"]
        assert bound().inbox.add_new("q", []) == []


def test_a_message_whose_transaction_failed_is_new_again(store_url):
    roll_back(lambda: bound().inbox.add_new("q", ["a"]))
    assert bound().inbox.add_new("q", ["a"]) == ["a"]


def test_old_inbox_rows_are_forgotten(store_url):
    bound().inbox.add_new("q", ["a"])
    assert bound().inbox.forget(3600) == 0
    assert bound().inbox.forget(-1) == 1
    assert bound().inbox.add_new("q", ["a"]) == ["a"]


def test_a_transaction_inside_another_joins_it(store_url):
    def put_in_a_transaction_of_its_own():
        with transaction():
            bound().outbox.put("publish_tweet", {"n": 1})

    roll_back(put_in_a_transaction_of_its_own)
    assert outbox_rows() == 0


def test_faults_of_a_message_are_no_outage(store_url):
    for statement in ("SELECT nothing FROM feedbus_outbox", "SELECT 1 +", "SELECT substr()"):
        with pytest.raises(peewee.PeeweeException) as caught:
            database.execute_sql(statement)
        assert not bound().is_outage(caught.value), statement
    bound().outbox.put("x", {})
    row = bound().outbox.pending()[0]
    with pytest.raises(peewee.IntegrityError) as doubled:
        database.execute_sql(
            f"INSERT INTO feedbus_outbox VALUES ({row.id}, 'shop', 'x', '', '', '', 0, NULL)"
        )
    assert not bound().is_outage(doubled.value)
    assert not bound().is_outage(ValueError("what a handler raised"))


def test_missing_tables_are_an_outage_that_says_what_to_do(empty_store_url):
    bind(PeeweeStore(empty_store_url))
    with pytest.raises(Outage, match="tables are missing; run `feedbus up`"), transaction():
        bound().outbox.put("publish_tweet", {"n": 1})


def test_an_outage_in_a_transaction_is_raised_as_one(store_url):
    with pytest.raises(Outage), transaction():
        raise AWAY
    assert bound().is_outage(Outage("x"))


def test_each_thread_has_its_own_transaction(store_url):
    seen = []

    def count():
        seen.append(outbox_rows())

    with transaction():
        bound().outbox.put("x", {})
        thread = threading.Thread(target=count)
        thread.start()
        thread.join(PATIENCE_SECONDS)
    assert seen == [0]


def topology(folder: Path, store: StoreOptions | None) -> Topology:
    url = parse_broker_url(f"sqlite:///{folder}/broker.db")
    return Topology("shop", folder / "topology.toml", url, {}, {}, store=store)


def at(url: str) -> StoreOptions:
    return StoreOptions(url=parse_store_url(url))


def test_ping_asks_a_store_without_opening_it(store_url, tmp_path):
    opened = database.obj
    ping(topology(tmp_path, at(store_url)))
    assert database.obj is opened
    away = at(f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x")
    with pytest.raises(Outage, match="refused"):
        ping(topology(tmp_path, away))


def test_without_a_store_nothing_is_kept_and_what_needs_one_says_so(tmp_path):
    store = open_store(topology(tmp_path, None))
    assert isinstance(store, NoStore)
    store.set_up()
    store.ready()
    with store.transaction() as session:
        assert session is None
    with store.exclusive("relay") as held:
        assert not held
    assert (store.outbox.pending(), store.outbox.remove([1])) == ([], 0)
    assert (store.inbox.seen("work", ["1"]), store.inbox.forget(0)) == ([], 0)
    assert not store.is_outage(OSError("no"))
    store.close()
    for needs in (
        lambda: store.outbox.put("e", {}),
        lambda: store.outbox.put_many("e", []),
        lambda: store.inbox.add_new("work", ["1"]),
    ):
        with pytest.raises(UsageError, match=r"there is no store: add \[store\]"):
            needs()
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_is_none_of_a_store_is_refused():
    for url in ("mysql://x/y", "sqlite:///relative.db", "nonsense", "postgresql://h/d?nope=1"):
        with pytest.raises(UsageError, match="store url"):
            bind(PeeweeStore(url))


def test_using_the_store_before_it_is_open_says_so():
    close_bound()
    with pytest.raises(UsageError, match="no store is open"), transaction():
        pass
