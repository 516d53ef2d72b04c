"""feedbus status: the state of every consumer and process, with the numbers of messages."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from feedbus.cli.status_table import table
from feedbus.errors import FeedbusError

if TYPE_CHECKING:
    from datetime import datetime

    from feedbus.generations.queue_depths import Depths
    from feedbus.metrics import WaitingCounts
    from feedbus.topology import Topology

# The counts of a consumer while the broker is unavailable.
UNKNOWN = {"ready": None, "retrying": None, "waiting": None, "dead": None}
NOT_RUNNING = {
    "state": "stopped",
    "processes": [],
    "wanted_processes": 0,
    "restarts": 0,
    "last_exit": "",
    "changed_code": [],
}


@click.command(
    epilog="""\b
Examples:
  feedbus status
  feedbus status --check    # in a script: exit code 1 if the broker cannot be used
  feedbus status --json | jq '.consumers[] | select(.state != "running")'
"""
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--check",
    is_flag=True,
    help="Exit with code 1 if feedbus cannot use the broker, the store or a folder of its own.",
)
@click.pass_obj
def command(context: Any, *, as_json: bool, check: bool) -> None:
    """Show each consumer and process: its state, restarts, messages and dead letters.

    READY counts the messages in the consumer's queue. RETRYING counts the messages that wait for
    their next attempt, and DEAD counts the dead letters. All shards of a queue show the same
    RETRYING and DEAD: the totals of the queue. WAITING counts the records that wait for an earlier
    record of their key. While no consumer runs, WAITING also counts the records that wait for their
    next attempt. HANDLED counts each attempt to handle a record, and each invalid record, for which
    no handler is called. HANDLED counts on this host since the folder var was created; restarts do
    not reset it.

    The command also works if nothing runs.
    """
    found = gather(context.load())
    click.echo(json.dumps(found, indent=2) if as_json else table(found))
    if check and any(found[part]["error"] for part in ("broker", "store", "disk")):
        raise click.exceptions.Exit(1)


def gather(topology: Topology) -> dict[str, Any]:
    """Return the current state of a system, as `feedbus status --json` prints it.

    The keys "supervisor", "broker", "store" and "disk" have a key "error": the reason if the part
    cannot be used, or "".
    """
    from feedbus.metrics import all_waiting
    from feedbus.operations.unwritable_folders import unwritable_folders
    from feedbus.plan.unread_queues import unread_queue_notes
    from feedbus.supervisor.broker_mismatch import other_broker

    depths, fired, broker = _broker(topology)
    handled, dropped = _handled(topology), _dropped(topology)
    received = all_waiting(topology.var / "run")
    try:
        answer, trouble = _supervisor(topology), ""
    except FeedbusError as error:
        answer, trouble = None, str(error)
    watchers = answer["watchers"] if answer else {}
    unapplied, changed, notes = _outdated(topology, answer)
    if broker["reachable"]:
        with contextlib.suppress(FeedbusError):  # the broker has become unavailable meanwhile
            notes += unread_queue_notes(topology)
    if note := other_broker(topology):
        notes = [note, *notes]
    for name, one in watchers.items():
        one["changed_code"] = changed.get(name, [])
    states = dict.fromkeys((*topology.consumers, *topology.supervised), NOT_RUNNING)
    states |= {name: NOT_RUNNING | {"state": "not applied"} for name in unapplied}
    states |= watchers
    consumers = {}
    for name in topology.consumers:
        found = asdict(depths[name]) if name in depths else UNKNOWN
        counts = {**found, "handled": handled.get(name)}
        if counts["waiting"] is not None and name in received:
            # The broker does not count the waiting records that a consumer has received.
            counts["waiting"] += received[name].waiting
        counts["dead_dropped"] = dropped.get(name, 0)
        consumers[name] = states[name] | counts
    _add_retrying(topology, consumers, received)
    return {
        "supervisor": {
            "pid": answer["pid"] if answer else None,
            "error": trouble,
            "var": str(topology.var),
        },
        "broker": broker,
        "store": _store(topology),
        "disk": {"error": "; ".join(unwritable_folders(topology))},
        "consumers": consumers,
        "processes": {name: states[name] for name in topology.supervised},
        "hosts": _hosts(topology),
        "schedules": _schedules(topology, fired),
        "operations": {"url": _operations_url(topology)},
        "notes": notes,
    }


def _add_retrying(
    topology: Topology, consumers: dict[str, dict[str, Any]], received: dict[str, WaitingCounts]
) -> None:
    """Add to `retrying` the failed records that consumers have received from waiting queues.

    The broker does not count these records. `retrying` is a total of the queue, so all shards of
    the queue get the same number.

    Args:
        topology: the topology.
        consumers: maps the name of each consumer to its state, in which `retrying` is changed.
        received: maps the names of consumers to the numbers of records that they have received.

    """
    totals = Counter[str]()
    for name, counts in received.items():
        if name in topology.consumers:
            totals[topology.consumers[name].queue.name] += counts.retrying
    for name, one in consumers.items():
        if one["retrying"] is not None:
            one["retrying"] += totals[topology.consumers[name].queue.name]


def _hosts(topology: Topology) -> list[dict[str, Any]]:
    """Return the hosts of the project, each with its shards; empty if they are not known."""
    from feedbus.hosts.assignment_file import read_assignment

    sharing = read_assignment(topology)
    if sharing is None:
        return []
    return [asdict(one) | {"this_host": one.host == sharing.host} for one in sharing.hosts]


def _operations_url(topology: Topology) -> str | None:
    from feedbus.operations.url_file import read_url

    return read_url(topology)


def _supervisor(topology: Topology) -> dict[str, Any] | None:
    from feedbus.supervisor.client import state

    return state(topology)


def _outdated(
    topology: Topology, answer: dict[str, Any] | None
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Compare what the supervisor runs with the topology and with the files of the code.

    Args:
        topology: the topology of the file.
        answer: the supervisor's answer, from client.state(); None if no supervisor runs.

    Returns:
        The names of the consumers and processes that the supervisor does not have yet; a mapping
        from names of consumers and processes to the code files that have changed since their start;
        and notes about both, or about another version of feedbus that the supervisor runs.

    """
    from feedbus.supervisor import outdated_processes

    if answer is None:
        return [], {}, []
    changed = outdated_processes.changed_files_by_watcher(topology, answer)
    if other := outdated_processes.other_version(answer):
        return [], changed, [other]
    reloads = outdated_processes.reloads(answer)
    unapplied = outdated_processes.unapplied_names(topology, answer)
    notes = (
        outdated_processes.unapplied_note(unapplied, reloads=reloads),
        outdated_processes.outdated_note(changed, reloads=reloads),
    )
    return unapplied, changed, [note for note in notes if note]


def _schedules(topology: Topology, fired: dict[str, datetime] | None) -> dict[str, dict[str, Any]]:
    """Return when each schedule was fired last and will be fired next, in its time zone."""
    from feedbus.schedules.overview import overview

    return {name: asdict(one) for name, one in overview(topology, fired).items()}


def _broker(
    topology: Topology,
) -> tuple[dict[str, Depths], dict[str, datetime] | None, dict[str, Any]]:
    """Return what the broker reports.

    Returns:
        The depths of each consumer, the time at which each schedule was fired last, and the state
        of the broker itself. If the broker is unavailable, there are no depths, and the times are
        None.

    """
    from feedbus import broker
    from feedbus.broker import timer
    from feedbus.broker_names import Names
    from feedbus.generations.queue_depths import depths_of
    from feedbus.schedules.fired_moment import fired_moments

    url = str(topology.broker_url)
    try:
        with (
            broker.connect(topology) as connection,
            broker.outage(connection, topology.broker_url),
        ):
            depths = depths_of(connection, topology)
            delayed = asdict(timer.count_delayed(connection, Names(topology)))
            fired = fired_moments(connection, topology)
        refuses = broker.refusal(topology)
    except FeedbusError as error:
        return {}, None, {"url": url, "reachable": False, "error": str(error)}
    return depths, fired, {"url": url, "reachable": True, "error": refuses, "delayed": delayed}


def _store(topology: Topology) -> dict[str, Any]:
    from feedbus.store import ping

    url = str(topology.store) if topology.store is not None else ""
    try:
        refuses = ping(topology)
    except FeedbusError as error:
        return {"url": url, "reachable": False, "error": str(error)}
    return {"url": url, "reachable": True, "error": refuses}


def _handled(topology: Topology) -> dict[str, int]:
    """Return how many records each consumer has handled.

    Each attempt counts, also a failed one. An invalid record counts, too, although no handler gets
    it.
    """
    from feedbus.metrics import totals

    counts = totals(topology.var / "metrics")
    return {consumer: sum(verdicts.values()) for consumer, verdicts in counts.items()}


def _dropped(topology: Topology) -> dict[str, int]:
    """Return how many dead letters each consumer has deleted because of max_age or max_length."""
    from feedbus.metrics import dropped_dead_letters

    return dropped_dead_letters(topology.var / "metrics")
