"""Hosts whose topology files differ do not switch the ring back and forth."""

import os
from dataclasses import replace

import pytest

from feedbus import broker
from feedbus.apply import apply
from feedbus.errors import UsageError
from feedbus.generations import state_queues, topology_setup
from feedbus.plan.planning import make_plan
from tests.small_topologies import sharded
from tests.systems import System

NOON = 1_800_000_000.0


class Host:
    """A host of a system: a folder with its own file."""

    def __init__(self, system, folder):
        self._system = system
        self.folder = folder
        folder.mkdir()

    def write(self, shards, modified):
        """Write a file that asks for so many shards, with this time of its last change."""
        path = self.folder / "topology.toml"
        path.write_text(f"shards = {shards}\n")
        os.utime(path, (modified, modified))
        queues = {"shard": sharded(shards)}
        var = self.folder / "var"
        self.topology = replace(self._system.topology, path=path, var=var, queues=queues)

    def up(self):
        """Do what `feedbus up` does on the broker; return how many shards are current."""
        return len(topology_setup.set_up(self.topology)["ring"].current.members)

    def apply(self, **options):
        """Do what `feedbus apply` does on the broker."""
        plan = make_plan(self.topology, None, predict=False)
        apply(
            self.topology,
            plan,
            None,
            wait=False,
            report=lambda _: None,
            progress=lambda _: None,
            **options,
        )

    @property
    def shards(self):
        with broker.connect(self.topology) as connection:
            return len(state_queues.states(connection, self.topology)["ring"].current.members)


@pytest.fixture
def hosts(tmp_path):
    system = System.at(tmp_path, sharded(3))
    one, other = Host(system, tmp_path / "one"), Host(system, tmp_path / "other")
    one.write(3, NOON)
    other.write(3, NOON)
    assert one.up() == other.up() == 3
    return one, other


def test_an_older_file_is_refused_by_name_and_the_ring_stays(hosts):
    one, other = hosts
    one.write(5, NOON + 60)
    assert one.up() == 5
    for start in (other.up, other.apply):
        with pytest.raises(
            UsageError, match="is older than the file that declared the curr"
        ) as error:
            start()
        for host in hosts:
            assert str(host.folder / "topology.toml") in str(error.value)
        assert "3 shards, and the current ring has 5" in str(error.value)
    (change,) = make_plan(other.topology, None, predict=False).rings
    assert "refused, because another host's file is newer" in change.reason
    assert one.shards == 5
    other.write(5, NOON + 60)
    assert other.up() == 5


def test_a_newer_file_of_another_host_replaces_the_ring(hosts):
    one, other = hosts
    one.write(5, NOON + 60)
    one.up()
    other.write(6, NOON + 120)
    assert other.up() == 6
    with pytest.raises(UsageError, match="is older"):
        one.up()


def test_a_late_copy_of_a_replaced_file_is_refused(hosts):
    one, other = hosts
    one.write(5, NOON + 60)
    one.up()
    other.write(3, NOON + 120)
    with pytest.raises(UsageError, match="declares an earlier ring"):
        other.up()
    assert one.shards == 5


def test_a_file_that_was_confirmed_by_a_newer_copy_counts_as_the_newer(hosts):
    one, other = hosts
    one.write(5, NOON + 60)
    one.up()
    other.write(5, NOON + 120)
    other.up()
    one.write(7, NOON + 90)
    with pytest.raises(UsageError, match="is older"):
        one.up()


def test_a_host_goes_back_to_its_own_earlier_file(hosts):
    one, _ = hosts
    one.write(5, NOON + 60)
    one.up()
    one.write(3, NOON)
    assert one.up() == 3


def test_an_operator_can_insist_on_the_older_file(hosts):
    one, other = hosts
    one.write(5, NOON + 60)
    one.up()
    other.apply(allow_older_file=True)
    assert one.shards == 3
    with pytest.raises(UsageError, match="declares an earlier ring"):
        one.up()


def test_files_with_equal_times_do_not_take_turns(hosts):
    one, other = hosts
    one.write(5, NOON)
    assert one.up() == 5
    with pytest.raises(UsageError, match="declares an earlier ring"):
        other.up()
    other.write(6, NOON)
    assert other.up() == 6
    with pytest.raises(UsageError, match="declares an earlier ring"):
        one.up()
