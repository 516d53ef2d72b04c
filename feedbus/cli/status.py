"""feedbus status: the state of every consumer and process, with the messages that wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from feedbus.errors import FeedbusError
from feedbus.printable import printable

if TYPE_CHECKING:
    from datetime import datetime

    from feedbus.generations.depths import Depths
    from feedbus.topology import Topology

COLOURS = {
    "running": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "leaving": "yellow",
    "holding": "yellow",
    "waiting": "yellow",
    "gave up": "red",
}
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
  feedbus status --json | jq '.consumers[] | select(.state != "running")'
"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.pass_obj
def command(context: Any, as_json: bool) -> None:  # noqa: FBT001 -- click passes a flag
    """Show every consumer and process: state, restarts, what waits for it, what has died.

    Works whether or not anything runs.
    """
    found = gather(context.load())
    click.echo(json.dumps(found, indent=2) if as_json else _table(found))


def gather(topology: Topology) -> dict[str, Any]:
    """Return the current state of a system, with reasons for the parts that cannot be read."""
    from feedbus.operations.disk_space import unwritable_folders
    from feedbus.process.lifeline import all_waiting

    depths, fired, broker = _broker(topology)
    handled, dropped = _handled(topology), _dropped(topology)
    taken = all_waiting(topology.var / "run")
    try:
        answer, trouble = _supervisor(topology), ""
    except FeedbusError as error:
        answer, trouble = None, str(error)
    kept = answer["watchers"] if answer else {}
    changed, note = _outdated(topology, answer)
    for name, one in kept.items():
        one["changed_code"] = changed.get(name, [])
    consumers = {}
    for name in topology.consumers:
        found = asdict(depths[name]) if name in depths else UNKNOWN
        waiting = {**found, "handled": handled.get(name)}
        if waiting["waiting"] is not None:
            waiting["waiting"] += taken.get(name, 0)
        waiting["dead_dropped"] = dropped.get(name, 0)
        consumers[name] = kept.get(name, NOT_RUNNING) | waiting
    return {
        "supervisor": {"pid": answer["pid"] if answer else None, "error": trouble},
        "broker": broker,
        "store": _store(topology),
        "disk": {"error": "; ".join(unwritable_folders(topology))},
        "consumers": consumers,
        "processes": {name: kept.get(name, NOT_RUNNING) for name in topology.supervised},
        "hosts": _hosts(topology),
        "schedules": _schedules(topology, fired),
        "operations": {"url": _operations_url(topology)},
        "notes": [note] if note else [],
    }


def _hosts(topology: Topology) -> list[dict[str, Any]]:
    """Return the hosts of the project, and what each works on; empty where that is not known."""
    from feedbus.hosts.assignment_file import known

    sharing = known(topology)
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
) -> tuple[dict[str, list[str]], str]:
    from feedbus.supervisor.outdated import other_version, outdated, outdated_note

    if answer is None:
        return {}, ""
    changed = outdated(topology, answer)
    return changed, other_version(answer) or outdated_note(changed)


def _schedules(topology: Topology, fired: dict[str, datetime]) -> dict[str, dict[str, Any]]:
    """Return when each schedule was fired last and will be fired next, in its time zone."""
    from feedbus.schedules.overview import overview

    return {name: asdict(one) for name, one in overview(topology, fired).items()}


def _broker(
    topology: Topology,
) -> tuple[dict[str, Depths], dict[str, datetime], dict[str, Any]]:
    from feedbus import broker
    from feedbus.broker import timer
    from feedbus.broker.names import Names
    from feedbus.generations.depths import depths_of
    from feedbus.schedules.fired_moment import fired_moments

    url = str(topology.broker_url)
    try:
        with (
            broker.connect(topology) as connection,
            broker.outage(connection, topology.broker_url),
        ):
            depths = depths_of(connection, topology)
            delayed = asdict(timer.count(connection, Names(topology)))
            fired = fired_moments(connection, topology)
        refuses = broker.refusal(topology)
    except FeedbusError as error:
        return {}, {}, {"url": url, "reachable": False, "error": str(error)}
    return depths, fired, {"url": url, "reachable": True, "error": refuses, "delayed": delayed}


def _store(topology: Topology) -> dict[str, Any]:
    from feedbus.store import ping

    url = str(topology.store) if topology.store is not None else ""
    try:
        ping(topology)
    except FeedbusError as error:
        return {"url": url, "reachable": False, "error": str(error)}
    return {"url": url, "reachable": True, "error": ""}


def _handled(topology: Topology) -> dict[str, int]:
    from feedbus.metrics import totals

    counts = totals(topology.var / "metrics")
    return {consumer: sum(verdicts.values()) for consumer, verdicts in counts.items()}


def _dropped(topology: Topology) -> dict[str, int]:
    from feedbus.metrics import dropped_dead_letters

    return dropped_dead_letters(topology.var / "metrics")


def _table(found: dict[str, Any]) -> str:
    header = ("", "STATE", "PIDS", "UP", "RESTARTS", "READY", "RETRYING", "DEAD", "HANDLED")
    rows = [header]
    for name, one in (found["consumers"] | found["processes"]).items():
        pids = ",".join(str(process["pid"]) for process in one["processes"])
        uptimes = [process["uptime_seconds"] for process in one["processes"]]
        counts = [_text(one.get(key)) for key in ("ready", "retrying", "dead", "handled")]
        up = _span(min(uptimes)) if uptimes else ""
        rows.append((name, one["state"], pids, up, str(one["restarts"]), *counts))
    lines = _aligned(rows)
    if found["schedules"]:
        shown = [("schedule", "CRON", "NEXT", "LAST")]
        for name, one in found["schedules"].items():
            shown.append((name, one["cron"], one["next"], one["last"] or "not fired yet"))
        lines += ["", *_aligned(shown)]
    supervisor = found["supervisor"]
    runs = (
        f"process {supervisor['pid']}"
        if supervisor["pid"]
        else "nothing runs; start it with `feedbus up`"
    )
    lines += _hosts_table(found["hosts"])
    lines.append("")
    lines.append(f"supervisor  {printable(supervisor['error']) or runs}")
    for name, one in (found["consumers"] | found["processes"]).items():
        holding = sorted({process.get("holding", "") for process in one["processes"]} - {""})
        lines += [f"{name} holds: {printable(reason)}" for reason in holding]
    for name, one in found["consumers"].items():
        if one["waiting"]:
            lines.append(f"{name}: {one['waiting']:,} records wait, since one of each key failed")
        if one["dead_dropped"]:
            lines.append(f"{name} has dropped {one['dead_dropped']:,} dead letters over its limits")
    lines += [printable(note) for note in found["notes"]]
    for name in ("broker", "store"):
        one = found[name]
        state = f"{one['url']}  {printable(one['error']) or 'reachable'}" if one["url"] else "none"
        lines.append(f"{name:<10}  {state}")
    lines += _delayed(found["broker"].get("delayed", {}))
    lines.append(f"{'disk':<10}  {printable(found['disk']['error']) or 'can be written to'}")
    if found["operations"]["url"]:
        lines.append(f"operations  {found['operations']['url']}")
    return "\n".join(lines)


def _hosts_table(hosts: Sequence[dict[str, Any]]) -> list[str]:
    """Return which host works on what, where there are several."""
    if len(hosts) < 2:  # noqa: PLR2004 -- several
        return []
    rows = [("host", "", "SHARDS", "")]
    for one in hosts:
        here = "this host" if one["this_host"] else ""
        rows.append((one["host"], here, str(len(one["works_on"])), ", ".join(one["works_on"])))
    lines = ["", *_aligned(rows)]
    lines += [
        f"{one['host']} has another topology file than this host; give all hosts the same file"
        for one in hosts
        if not one["same_file"]
    ]
    return [printable(line) for line in lines]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns, the second in the colour of its state."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[1] = click.style(cells[1], fg=COLOURS.get(row[1]))
        lines.append("  ".join(cells).rstrip())
    return lines


def _delayed(counts: dict[str, int]) -> list[str]:
    """Return a line with the number of delayed messages, if there are any."""
    lines = []
    if counts.get("waiting"):
        lines.append(f"{'delayed':<10}  {counts['waiting']:,} messages wait until they are due")
    if counts.get("undelivered"):
        lines.append(
            f"{'delayed':<10}  {counts['undelivered']:,} messages were due, and no queue of the"
            " topology takes them; add one for their exchange and routing key, and `feedbus apply`"
            " sends them on"
        )
    return lines


def _text(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
