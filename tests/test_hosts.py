"""Which host works on which shard: the assignment, the leader, and what a consumer reads."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedbus.clock import VirtualClock
from feedbus.hosts import assignment_file
from feedbus.hosts.announcement import Announcement, decode
from feedbus.hosts.assignment import assign
from feedbus.hosts.assignment_file import AssignedConsumer, SeenHost, Sharing
from feedbus.hosts.running_hosts import GONE_SECONDS, LISTEN_SECONDS, Membership

HOSTS = st.sets(st.sampled_from("abcdefg"), min_size=1, max_size=6)
SHARDS = st.dictionaries(st.sampled_from(["feed", "mail", "sms"]), st.integers(1, 13), min_size=1)

anywhere = settings(max_examples=40)


def names(shards):
    return {queue: [f"{queue}_{n}" for n in range(count)] for queue, count in shards.items()}


def everywhere(shards, hosts):
    return {
        queue: {consumer: set(hosts) for consumer in consumers}
        for queue, consumers in names(shards).items()
    }


def moved(before, after):
    return sum(after[consumer] != host for consumer, host in before.items())


def spread(assignment, hosts, consumers):
    counts = Counter(assignment[consumer] for consumer in consumers)
    return max(counts[host] for host in hosts) - min(counts[host] for host in hosts)


@anywhere
@given(SHARDS, HOSTS, st.data())
def test_hosts_differ_by_one_shard_at_most_in_each_queue_and_in_all(shards, hosts, data):
    some = st.sampled_from(sorted(hosts | {"gone"}))
    consumers = [one for each in names(shards).values() for one in each]
    previous = data.draw(st.dictionaries(st.sampled_from(consumers), some))
    found = assign(everywhere(shards, hosts), previous)
    assert set(found) == set(consumers)
    for of_queue in names(shards).values():
        assert spread(found, hosts, of_queue) <= 1
    assert spread(found, hosts, consumers) <= 1


@anywhere
@given(SHARDS, HOSTS)
def test_an_assignment_stays_while_nothing_changes(shards, hosts):
    able = everywhere(shards, hosts)
    first = assign(able, {})
    assert assign(able, first) == first


@anywhere
@given(st.integers(1, 24), HOSTS)
def test_a_host_that_goes_moves_only_its_own_shards(count, hosts):
    before = assign(everywhere({"feed": count}, hosts | {"z"}), {})
    after = assign(everywhere({"feed": count}, hosts), before)
    assert moved(before, after) == sum(host == "z" for host in before.values())


@anywhere
@given(st.integers(1, 24), HOSTS)
def test_a_host_that_joins_takes_its_share_and_nothing_else_moves(count, hosts):
    before = assign(everywhere({"feed": count}, hosts), {})
    after = assign(everywhere({"feed": count}, hosts | {"z"}), before)
    assert moved(before, after) == count // (len(hosts) + 1)
    assert all(after[one] in {host, "z"} for one, host in before.items())


@anywhere
@given(SHARDS, HOSTS, st.data())
def test_a_shard_is_assigned_to_a_host_that_can_run_it(shards, hosts, data):
    some = st.sets(st.sampled_from(sorted(hosts)))
    able = {
        queue: {consumer: data.draw(some) for consumer in consumers}
        for queue, consumers in names(shards).items()
    }
    found = assign(able, {})
    for consumers in able.values():
        for consumer, possible in consumers.items():
            assert (found[consumer] in possible) if possible else consumer not in found


class Group:
    """Hosts that hear each other's announcements late, in a virtual time."""

    def __init__(self, delays):
        self.now, self.delays, self.hosts, self.wire = 0.0, delays, {}, []
        self.ready_consumers = {"feed": tuple(f"feed_{n}" for n in range(12))}

    def join(self, host):
        self.hosts[host] = Membership(host), self.now
        self.hosts[host][0].on_connect(self.now)

    def kill(self, host):
        del self.hosts[host]

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            for host in sorted(self.hosts):
                membership, since = self.hosts[host]
                for sent in [one for one in self.wire if one[:2] <= (self.now, host)]:
                    if sent[1] == host:
                        membership.add_announcement(sent[2], self.now)
                        self.wire.remove(sent)
                own = Announcement(host, since, self.ready_consumers, membership.assignment)
                membership.assign(own, self.now)
                own = Announcement(host, since, self.ready_consumers, membership.assignment)
                self.wire += [(self.now + self.delays(), to, own) for to in self.hosts]
                self.wire.sort(key=lambda one: one[:2])

    def counts(self):
        known = {tuple(sorted(one.assignment.items())) for one, _ in self.hosts.values()}
        assert len(known) == 1  # all hosts use the same assignment
        return Counter(dict(known.pop()).values())


@anywhere
@given(st.randoms(use_true_random=False))
def test_all_hosts_go_by_one_even_assignment_within_ten_seconds(chance: random.Random):
    group = Group(lambda: chance.uniform(0, 1.5))
    group.join("a")
    group.run(5)
    for host in "bc":
        group.join(host)
    group.run(10)
    assert group.counts() == {"a": 4, "b": 4, "c": 4}
    group.kill(chance.choice("abc"))  # the leader, too
    group.run(10)
    assert sorted(group.counts().values()) == [6, 6]


def test_hosts_get_time_to_come_back_after_a_restart_of_the_broker():
    one, other = Membership("a"), Announcement("b", 2.0, {"feed": ("feed_0", "feed_1")}, None)
    own = Announcement("a", 1.0, {"feed": ("feed_0", "feed_1")}, None)
    one.on_connect(0.0)
    one.add_announcement(other, 0.0)
    assert set(one.assign(own, LISTEN_SECONDS).values()) == {"a", "b"}
    one.on_disconnect()
    one.on_connect(60.0)
    assert set(one.assign(own, 60.0 + LISTEN_SECONDS).values()) == {"a", "b"}
    assert set(one.assign(own, 60.1 + GONE_SECONDS).values()) == {"a"}


def test_an_announcement_is_read_as_it_was_written():
    one = Announcement("a", 1.5, {"feed": ("feed_0",)}, {"feed_0": "a"}, "0123", "shop.:hosts.1")
    assert decode(one.encode()) == one


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"host": 1}', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_announcement_is_left_out(body):
    assert decode(body) is None


@pytest.fixture
def path(tmp_path: Path):
    return tmp_path / "hosts.json"


def sharing(host, assignment):
    return Sharing(host, [SeenHost(host), SeenHost("other")], assignment)


def test_a_consumer_follows_the_file_of_its_supervisor(path):
    clock = VirtualClock()
    assigned = AssignedConsumer(path, "feed_1", os.getppid(), clock)
    by_another = AssignedConsumer(path, "feed_1", 1 << 22, clock)
    assert assigned()
    for here, assignment in (
        (False, {"feed_1": "other"}),
        (True, {"feed_1": "me"}),
        (False, {"feed_1": "other", "feed_0": "me"}),
        (True, {"feed_0": "me"}),  # no host can run it: any host may work on it
    ):
        assignment_file.write(path, sharing("me", assignment))
        clock.sleep(1)
        assert assigned() == here
        assert by_another()


def test_a_consumer_relies_on_no_file_whose_writer_has_gone_for_long(path, monkeypatch):
    clock = VirtualClock()
    assigned = AssignedConsumer(path, "feed_1", os.getppid(), clock)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    monkeypatch.setattr(os, "getpid", lambda: child)
    assignment_file.write(path, sharing("me", {"feed_1": "other"}))
    assert not assigned()
    clock.sleep(10)
    assert not assigned()
    clock.sleep(10)
    assert assigned()
    assert assignment_file.read(path) is None


def test_what_is_written_can_be_read(path):
    assert assignment_file.read(path) is None
    written = sharing("me", {"feed_1": "other"})
    assignment_file.write(path, written)
    assert assignment_file.read(path) == written
