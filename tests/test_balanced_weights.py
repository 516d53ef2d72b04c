"""The search for the evenest weights: exact, and never less even than before."""

from itertools import combinations, pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from feedbus import config
from feedbus.balance.key_traffic import Tally
from feedbus.balance.weights import find
from feedbus.config.weight_editing import weighted
from feedbus.ring import Ring, frontier
from feedbus.ring.jump_hash import CLASSES, jumper, visits

# A ring of a queue that has a few shards, then a queue without any.
TEXT = """
name = "house"
[exchanges]
feed = { type = "x-consistent-hash" }
[queues.update_feed]
exchange = "feed"
shards = 3
handler = "handlers:update_feed"
[queues.audit]
exchange = "feed"
handler = "handlers:audit"
"""
TOPOLOGY = config.load(Path("topology.toml"), text=TEXT)
LOADS = st.dictionaries(
    st.integers(0, CLASSES - 1), st.integers(0, 20), min_size=1, max_size=40
).filter(lambda loads: any(loads.values()))


@given(st.integers(0, CLASSES - 1), st.integers(1, 500))
def test_what_a_key_visits_gives_its_bucket_for_every_number_of_buckets(each, buckets):
    visited = [0, *visits(each, 500)]
    assert max(bucket for bucket in visited if bucket < buckets) == jumper()(each, buckets)


@settings(max_examples=60)
@given(LOADS, st.integers(1, 4), st.integers(0, 6))
def test_each_choice_is_the_best_of_all_cuts_of_so_many_buckets(loads, queues, more):
    expected = []
    for buckets in range(queues, queues + more + 1):
        row = [0] * buckets
        for each, load in loads.items():
            row[jumper()(each, buckets)] += load
        busiest, idlest, _ = min(cuts(row, queues))
        if not expected or busiest < expected[-1][1]:
            expected.append((buckets, busiest, -idlest))
    found = frontier(loads, queues, queues + more)
    assert [(one.buckets, one.busiest_load, idlest_of(one, loads)) for one in found] == expected


def cuts(row, runs):
    """Yield (most, minus least, weights) of every way to cut a row into runs."""
    for inner in combinations(range(1, len(row)), runs - 1):
        places = [0, *inner, len(row)]
        loads = [sum(row[start:end]) for start, end in pairwise(places)]
        yield max(loads), -min(loads), places


def idlest_of(balance, loads):
    ring = Ring.of((str(place), weight) for place, weight in enumerate(balance.weights))
    owners = [queue for queue, weight in ring.buckets for _ in range(weight)]
    found = dict.fromkeys(owners, 0)
    for each, load in loads.items():
        found[owners[jumper()(each, len(owners))]] += load
    assert max(found.values()) == balance.busiest_load
    return min(found.values())


@given(
    loads=LOADS,
    weights=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    most=st.integers(4, 40),
    target=st.none() | st.floats(1, 4),
)
def test_it_is_never_less_even_than_before_nor_takes_more_buckets(loads, weights, most, target):
    *shards, audit = weights
    stands = weighted(TOPOLOGY, {"update_feed": dict(enumerate(shards)), "audit": audit})
    tally = Tally(loads=loads, keys=len(loads))
    found = find(stands, stands.generation("feed"), tally, most, target)
    if not found.changes:
        assert found.weights == {}
        return
    assert found.after.max_over_mean < found.before.max_over_mean
    assert len(found.after.ring) <= most
    # The report has the same weights as the file.
    proposed = weighted(stands, found.weights)
    assert found.after.members == [(one.name, one.weight) for one in proposed.consumers.values()
                                   if one.queue.exchange == "feed"]  # fmt: skip
