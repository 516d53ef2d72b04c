"""What the records of a batch publish: its order, its ids, and errors of the call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feedbus.bus.batch_bus import MAX_AT_ONCE, BatchBus
from feedbus.bus.collecting_bus import CollectingBus
from feedbus.bus.record_encoding import Encoder
from feedbus.errors import UsageError
from feedbus.records import Records
from feedbus.records.batch import LARGE_BATCH, Chunk
from feedbus.records.ids import MAX_ORDINAL, Ids, child_ordinals
from feedbus.records.packs import Pack, decode
from feedbus.records.publish_options import PublishOptions
from feedbus.testing import RecordingBus
from feedbus.wire.constants import PACK
from tests.small_topologies import undeclared


def collected(
    records: Records,
    handle: Callable[[Records], object],
    shards: int = 0,
    at_once: int = MAX_AT_ONCE,
) -> list[tuple[str, Pack]]:
    """Return what a batch handler publishes, as it is encoded."""
    packs: list[tuple[str, Pack]] = []

    def collect(exchange: str, pack: Pack, *_: object) -> None:
        packs.append((exchange, pack))

    bus = BatchBus(records, collect, lambda _: shards, at_once)
    handle(records)
    bus.flush()
    return packs


def published(
    records: Records,
    handle: Callable[[Records], object],
    shards: int = 0,
    at_once: int = MAX_AT_ONCE,
) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return (exchange, key, id, payload) of all that a batch handler publishes."""
    return [
        (exchange, key, pack.ids[index], pack.payload(index))
        for exchange, pack in collected(records, handle, shards, at_once)
        for index, key in enumerate(pack.keys)
    ]


def test_ids_of_children_depend_on_their_causes_and_not_on_the_batch() -> None:
    first = Chunk(Ids("p", [0, 1]), {}, {"n": [1, 2]}, [0, 1])
    second = Chunk(Ids(["q", "r"], [5, 0]), {}, {"n": [3, 4]}, [0, 1])

    def caused(*chunks: Chunk) -> set[str]:
        found = published(Records(chunks), lambda all_: all_.publish("work", columns={"n": "n"}))
        return {name for _, _, name, _ in found}

    apart = caused(first) | caused(second)
    assert caused(first, second) == apart
    assert len(apart) == 4
    assert caused(first.select([1])) < caused(first)
    assert caused(second.select([1])) < caused(second)


def spread_out(records: Records) -> None:
    """Publish from all, from groups and from single records, some of them several times."""
    records.publish("all", key="k", columns={"n": "n", "group": "group"}, shared={"step": 0})
    for group, some in records.group_by("group").items():
        some.publish("groups", key=str(group), columns={"n": "n"}, shared={"step": 1})
        some.where_contains("text", "a").publish(
            "all",
            key=["x"] * len(some.where_contains("text", "a")),
            columns={"n": "n"},
            shared={"step": 2},
        )
    for each in records.where_not("group", {0}).singles():
        n, count = each.first["n"], each.first["n"] % 4
        columns = {"reader": list(range(count)), "n": "n"}
        each.publish_columns("groups", columns, key_column="reader", shared={"step": 3})
        each.publish_many("all", [({"n": n, "step": 4 + i}, f"{i}") for i in range(count)])
    records.publish("groups", key="last", columns={"n": "n", "text": "text"}, shared={"step": 9})


@settings(max_examples=50)
@given(
    st.lists(
        st.one_of(st.from_regex(r"[a-c](-(0|[1-9][0-9]?))?", fullmatch=True), st.text(min_size=1)),
        unique=True,
        min_size=2,
    )
)
@example(["order", "order-0"])
def test_records_with_different_ids_cause_messages_with_different_ids(ids: list[str]) -> None:
    records: Records = Records([Chunk(Ids.of(each), {"n": 1}, {}) for each in ids])
    found = [each[2] for each in published(records, lambda records: records.publish("out"))]
    assert len(set(found)) == len(ids)


@pytest.mark.parametrize(("length", "ordinal"), [(150, [5]), (151, None), (160, None)])
def test_an_id_whose_origin_does_not_fit_into_a_pack_has_no_ordinal(
    length: int, ordinal: list[int] | None
) -> None:
    ids = Ids.of("x" * length + "-5")
    assert (ids.ordinals, ids[0]) == (ordinal, "x" * length + "-5")


def test_a_record_with_a_very_long_ordinal_does_not_change_the_ids_of_its_neighbours() -> None:
    chunks = [Chunk(Ids.of(each), {"n": 1}, {}) for each in ("a-5", f"b-{MAX_ORDINAL}")]

    def ids(*given: Chunk) -> list[str]:
        return [
            each[2] for each in published(Records(given), lambda records: records.publish("out"))
        ]

    assert ids(*chunks) == [*ids(chunks[0]), *ids(chunks[1])]


CALLS = st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["", "a", "b", "a\n0"]))


@given(st.lists(CALLS, max_size=8), st.randoms())
def test_calls_for_other_exchanges_or_keys_do_not_change_the_ids_of_a_message(
    calls: list[tuple[str, str]], random: Random
) -> None:
    """The payload of a call says which of the calls with its exchange and key it is."""

    def ids(order: list[tuple[str, str]]) -> dict[tuple[str, str, int], str]:
        found: dict[tuple[str, str, int], str] = {}

        def collect(exchange: str, pack: Pack, *_: object) -> None:
            found[exchange, pack.keys[0], pack.payload(0)["n"]] = pack.ids[0]

        record = Records([Chunk(Ids("m", [0]), {}, {"n": [1]}, [0])])
        bus = CollectingBus(record, collect)
        counts = Counter[tuple[str, str]]()
        for number, call in enumerate(order):
            options: PublishOptions = {"priority": 1} if number == random.randrange(8) else {}
            bus.publish(call[0], {"n": counts[call]}, call[1], **options)
            counts[call] += 1
        return found

    first = ids(calls)
    assert len(set(first.values())) == len(calls)
    assert ids(random.sample(calls, len(calls))) == first


@given(st.data())
def test_what_records_publish_has_the_same_ids_in_whatever_batch_they_come(
    data: st.DataObject,
) -> None:
    chunks: list[Chunk] = []
    for number in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.sampled_from([1, 1, 3, LARGE_BATCH]))
        group = data.draw(st.integers(0, 2))
        columns = {"n": [100 * number + i for i in range(count)], "text": ["a", "b"] * count}
        columns["text"] = columns["text"][:count]
        first = data.draw(st.sampled_from([7, MAX_ORDINAL // 2 - 1, MAX_ORDINAL - LARGE_BATCH]))
        ordinals = range(first, first + count)
        origins = data.draw(st.sampled_from([f"m{number}", [f"m{number}"] * count]))
        chunks.append(Chunk(Ids(origins, ordinals), {"group": group}, columns, range(count)))
    shards, at_once = data.draw(st.sampled_from([0, 1, 10])), data.draw(st.integers(1, 300))
    together = Records(chunks)
    found = sorted(published(together, spread_out, shards), key=lambda each: each[2])
    assert len({name for _, _, name, _ in found}) == len(found)
    middle = data.draw(st.integers(0, len(together)))
    ids = together.ids
    halves = [together.only(part) for part in (ids[:middle], ids[middle:]) if part]
    apart = [each for half in halves for each in published(half, spread_out, shards, at_once)]
    assert sorted(apart, key=lambda each: each[2]) == found
    if len(together) < 20:
        alone = [
            each
            for one in together.batches_of_one()
            for each in published(one, spread_out, 0, at_once)
        ]
        assert sorted(alone, key=lambda each: each[2]) == found


def test_messages_of_one_key_stay_in_the_order_in_which_records_publish_them() -> None:
    records = Records.of([{"n": n} for n in range(40)])

    def handle(all_: Records) -> None:
        for each in all_.singles():
            n = each.first["n"]
            if n % 7 == 0:
                each.publish_columns(
                    "work", {"m": list(range(LARGE_BATCH))}, key="a", shared={"n": n}
                )
            elif n % 5 == 0:
                each.publish_many("work", [({"n": n, "m": m, "other": True}, "a") for m in (0, 1)])
            else:
                each.publish_columns("work", {"m": [0, 1]}, key=["a", "b"], shared={"n": n})
                each.publish("work", key="ab"[n % 2], columns={"n": "n"}, shared={"m": 2})

    for shards in (0, 1, 3):
        for key in "ab":
            found = [
                (payload["n"], payload["m"])
                for _, own, _, payload in published(records, handle, shards)
                if own == key
            ]
            assert found == sorted(found)


def test_small_parts_fill_packs_and_large_ones_store_once_what_they_share() -> None:
    records = Records.of([{"text": f"tweet {n}", "n": n} for n in range(200)])

    def handle(all_: Records) -> None:
        for each in all_.singles():
            followers = list(range(2000 if each.first["n"] == 100 else 3))
            columns = {"follower": followers, "text": "text"}
            each.publish_columns("ring", columns, key_column="follower", shared={"kind": "new"})

    before, large, after = [pack for _, pack in collected(records, handle, shards=10)]
    assert (before.shared, large.shared) == ({"kind": "new"}, {"kind": "new", "text": "tweet 100"})
    assert {len(before), len(large), len(after)} == {300, 2000, 297}
    assert before.columns["text"][:4] == ["tweet 0", "tweet 0", "tweet 0", "tweet 1"]
    assert (before.keys_or_column, before.keys[:4]) == ("follower", ["0", "1", "2", "0"])


def test_what_a_chunk_shares_is_stored_once_in_what_its_records_publish() -> None:
    readers = list(range(2 * LARGE_BATCH))
    wide = Chunk(Ids("w", readers), {"text": "wide"}, {"reader": readers}, readers)
    small = Chunk(Ids("s", [0, 1]), {"text": "small"}, {"reader": [7, 8]}, [0, 1])
    records = Records([small, wide, small])
    columns = {"userId": "reader", "text": "text"}
    packs = [
        pack for _, pack in collected(records, lambda all_: all_.publish("x", columns=columns))
    ]
    assert [(len(pack), "text" in pack.shared) for pack in packs] == [
        (2, False),
        (2 * LARGE_BATCH, True),
        (2, False),
    ]


def test_a_batch_handler_cannot_publish_by_the_bus() -> None:
    bus = BatchBus(Records.of([{"n": 1}]), lambda *_: None)
    for publish in (
        lambda: bus.publish("work", {"n": 1}),
        lambda: bus.publish_many("work", []),
        lambda: bus.publish_columns("work", {"n": [1]}, ["a"]),
    ):
        with pytest.raises(UsageError, match=r"call records\.publish\(…\)"):
            publish()


def test_what_records_cannot_publish_is_an_error_of_the_call() -> None:
    records = Records.of([{"n": 1}, {"n": 2}])
    BatchBus(records, lambda *_: None, Encoder(undeclared()).shard_count)
    (one, _) = records.singles()
    for publish, error in (
        (lambda: records.publish("work", columns={"n": [1]}), r"columns\['n'\]: expected 2 values"),
        (lambda: records.publish("work", key=["a"]), "key: expected 2 values"),
        (lambda: records.publish("work", key_column="n"), "key_column: expected the name of a col"),
        (lambda: records.publish("wrk", key="a"), "no exchange named 'wrk'"),
        (
            lambda: records.publish_columns("work", {"n": [1]}),
            "expected Records with exactly one record",
        ),
        (lambda: records.publish_many("work", []), "expected Records with exactly one record"),
        (lambda: one.publish_columns("work", {"n": "n"}), "expected at least one list of values"),
        (lambda: one.publish_columns("work", {"n": [1], "m": []}), "expected 1 values"),
        (lambda: Records.of([{}]).publish("work"), "no bus to publish with"),
    ):
        with pytest.raises(UsageError, match=error):
            publish()
    assert records.where("n", {3}).publish("work") == 0


def test_an_argument_of_a_wrong_type_is_named_with_what_records_expect_and_were_given() -> None:
    records = Records.of([{"n": 1}], bus=RecordingBus())
    call: Any = records
    for publish, error in (
        (
            lambda: call.publish({"n": 1}, key="a"),
            r"exchange: expected str, got {'n': 1} of type d",
        ),
        (lambda: call.publish("work", key=5), "key: expected str, or a list with one .* got 5"),
        (lambda: call.publish("work", columns=["n"]), "columns: expected a mapping of fields"),
        (
            lambda: call.publish("work", columns={"n": 5}),
            r"columns\['n'\]: expected a field's name",
        ),
        (
            lambda: call.publish("work", shared="n"),
            "shared: expected a mapping .* got 'n' of type str",
        ),
        (lambda: call.publish_columns("work", {"n": {1}}), r"columns\['n'\]: expected a field's n"),
        (
            lambda: call.publish_many("work", [("a", {"n": 1})]),
            r"pairs\[0\]: payload: expected a mapping, .*; payload and key are swapped",
        ),
        (lambda: call.publish_many("work", [({}, "a"), ({}, 7)]), r"pairs\[1\]: key: expected"),
    ):
        with pytest.raises(TypeError, match=error):
            publish()


def test_a_records_children_keep_their_ids_however_many_calls_publish_them() -> None:
    def caused(*calls: list[int]) -> list[str]:
        records = Records([Chunk(Ids("p", [0, 7]), {}, {"n": [1, 2]}, [0, 1])])

        def handle(all_: Records) -> None:
            singles = list(all_.singles())
            for causes in calls:
                for cause in causes:
                    singles[cause].publish_many("work", [({"n": 1}, "a")])

        return [name for _, _, name, _ in published(records, handle)]

    together = caused([0, 0, 0, 1, 1])
    assert len(set(together)) == 5
    assert caused([0], [0, 0], [1], [1]) == together
    assert sorted(caused([0, 1], [1, 0, 0])) == sorted(together)


NUMBERS = st.one_of(st.integers(0, 2), st.integers(0, 2**32 - 1))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5), st.integers(0, 3), st.integers(0, 3))
def test_no_two_descendants_share_an_ordinal(
    paths: list[tuple[int, int]], one_root: int, other_root: int
) -> None:
    def descend(ordinal: int, path: Iterable[int]) -> int:
        for number in path:
            (ordinal,) = child_ordinals(ordinal, number, 1)
        return ordinal

    one, other = ([pair[side] for pair in paths] for side in (0, 1))
    same = (one_root, one) == (other_root, other)
    assert (descend(one_root, one) == descend(other_root, other)) == same


@given(ordinal=st.integers(0, 2**70), first=st.integers(0, 3), count=st.integers(0, 4))
def test_the_ordinals_of_children_do_not_depend_on_how_many_are_published_at_once(
    ordinal: int, first: int, count: int
) -> None:
    alone = [child_ordinals(ordinal, first + number, 1)[0] for number in range(count)]
    assert list(child_ordinals(ordinal, first, count)) == alone


def test_messages_of_the_messages_that_a_record_causes_have_different_ids() -> None:
    ids, generations = Ids("o", [0, 1]), 3
    for _ in range(generations):
        records = Records([Chunk(ids, {}, {}, ["k"] * len(ids))])
        ((_, pack),) = collected(records, two_of_each)
        ids = pack.ids
    assert len(set(ids)) == len(ids) == 2 * 2**generations


def two_of_each(records: Records) -> None:
    for record in records.singles():
        record.publish_many("work", [({"n": 1}, "k"), ({"n": 2}, "k")])


def test_a_chain_of_single_messages_never_gets_ids_that_are_too_long() -> None:
    ids, found = Ids("o", [1]), set()
    for _ in range(1_000):
        records = Records([Chunk(ids, {}, {})])
        ((_, pack),) = collected(records, lambda all_: all_.publish("work", key="k"))
        ids = pack.ids
        found.add(ids[0])
    assert len(found) == 1_000
    assert max(map(len, found)) < 200


def two_children(records: Records) -> None:
    records.publish_many("work", [({"n": 1}, "k"), ({"n": 2}, "k")])


def test_descendants_of_many_generations_still_have_ids_that_amqp_can_carry() -> None:
    ids = Ids("o", [0])
    for _ in range(40):
        records = Records([Chunk(ids, {}, {})])
        ((_, pack),) = collected(records, two_children)
        assert len(set(pack.ids)) == 2
        assert list(decode(pack.encode(), PACK, "", "").ids) == list(pack.ids)
        ids = pack.ids.select([1])
        assert len(ids[0]) < 200


def test_children_of_different_messages_stay_in_the_order_of_publishing() -> None:
    chunks = [
        Chunk(Ids(origin, None), {"n": n}, {}) for n, origin in enumerate(["a-x", "b", "a-x"])
    ]
    found = published(Records(chunks), lambda all_: all_.publish("work", columns={"n": "n"}))
    assert [payload["n"] for *_, payload in found] == [0, 1, 2]
