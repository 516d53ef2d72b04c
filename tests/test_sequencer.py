"""The sequencer of keys, and the settlement of the records that it lets run, with random input."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from feedbus.dispatch.sequencer import Sequencer
from feedbus.runner.settlement import Settlement


@dataclass(frozen=True, eq=False)
class Record:
    number: int
    key: str | None


KEYS = st.sampled_from(["a", "b", "c", None])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS),
        st.tuples(st.sampled_from(["end", "again"]), st.integers(0, 100)),
    ),
    max_size=80,
)


@given(st.integers(1, 4), STEPS)
def test_records_of_one_key_run_in_order_at_most_so_many_at_once_and_all_of_them_end(most, steps):
    sequencer = Sequencer(most)
    added, ended, running = [], [], []

    def start():
        for record in sequencer.take():
            assert record.key is None or record.key not in {each.key for each in running}
            running.append(record)
        assert len(running) <= most
        startable = {record.key for record in added if record not in ended} - {None}
        free = sum(record.key is None for record in added if record not in ended)
        assert len(running) == min(most, len(startable) + free)  # nothing waits without a reason

    for step, argument in steps:
        if step == "add":
            added.append(Record(len(added), argument))
            sequencer.add(added[-1])
        elif running:
            record = running.pop(argument % len(running))
            if step == "end":
                sequencer.end(record)
                ended.append(record)
            else:
                sequencer.repeat(record)
        start()
        assert len(sequencer) == len(added) - len(ended)
    while running:
        record = running.pop(0)
        sequencer.end(record)
        ended.append(record)
        start()
    assert len(sequencer) == 0
    assert sorted(record.number for record in ended) == list(range(len(added)))
    by_key = defaultdict(list)
    for record in ended:
        if record.key is not None:
            by_key[record.key].append(record.number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_what_runs_blocks_its_key_also_after_what_waits_is_forgotten():
    sequencer = Sequencer(2)
    first, second, third = (Record(number, "a") for number in range(3))
    sequencer.add(first)
    sequencer.add(second)
    assert sequencer.take() == [first]
    sequencer.forget_waiting()
    sequencer.add(third)
    assert sequencer.take() == []
    sequencer.end(first)
    assert sequencer.take() == [third]


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(1, 5))
def test_each_delivery_that_is_done_is_acknowledged_once_and_no_other(steps, ahead):
    settlement, waiting, done, acknowledged = Settlement(), [], set(), []
    latest = 0
    for step in steps:
        for _ in range(ahead - len(waiting)):
            latest += 1
            settlement.add(latest)
            waiting.append(latest)
        tag = waiting.pop(step % len(waiting))
        done.add(tag)
        settlement.mark_done(tag)
        if step % 3:
            continue
        up_to, single = settlement.take_acknowledgeable()
        assert all(each in done for each in range(1, up_to + 1))
        acknowledged += [each for each in range(1, up_to + 1) if each not in acknowledged]
        assert all(each > up_to and each not in acknowledged for each in single)
        acknowledged += single
        assert sorted(acknowledged) == sorted(done)
