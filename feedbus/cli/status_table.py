"""The state of a system as the table that `feedbus status` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from feedbus.printable import printable
from feedbus.units import counted

COLOURS = {
    "running": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "leaving": "yellow",
    "holding": "yellow",
    "restarting": "yellow",
    "not applied": "yellow",
    "gave up": "red",
}

COUNTS = ("READY", "RETRYING", "WAITING", "DEAD", "HANDLED")  # also the keys of the JSON object


def table(system: dict[str, Any]) -> str:
    """Return the text that `feedbus status` prints: tables of consumers, schedules and hosts.

    Args:
        system: the state of the system, which status.gather() returns.

    """
    header = ("", "STATE", "PIDS", "UP", "RESTARTS", *COUNTS)
    rows = [header]
    for name, one in (system["consumers"] | system["processes"]).items():
        pids = ",".join(str(process["pid"]) for process in one["processes"])
        uptimes = [process["uptime_seconds"] for process in one["processes"]]
        counts = [_text(one.get(column.lower())) for column in COUNTS]
        up = _span(min(uptimes)) if uptimes else ""
        rows.append((name, one["state"], pids, up, str(one["restarts"]), *counts))
    lines = _aligned(rows)
    if system["schedules"]:
        lines += ["", *_schedules(system["schedules"])]
    supervisor = system["supervisor"]
    runs = (
        f"process {supervisor['pid']}"
        if supervisor["pid"]
        else f"nothing runs in {supervisor['var']}; start it with `feedbus up`"
    )
    lines += _hosts_table(system["hosts"])
    lines.append("")
    lines.append(f"supervisor  {printable(supervisor['error']) or runs}")
    for name, one in (system["consumers"] | system["processes"]).items():
        holding = sorted({process.get("holding", "") for process in one["processes"]} - {""})
        lines += [f"{name} holds: {printable(reason)}" for reason in holding]
    for name, one in system["consumers"].items():
        if one["dead_dropped"]:
            letters = counted(one["dead_dropped"], "dead letter")
            lines.append(f"{name}: {letters} deleted because of max_age or max_length")
    lines += [printable(note) for note in system["notes"]]
    for name in ("broker", "store"):
        one = system[name]
        reason = one["error"].removeprefix(f"{name} ").removeprefix(f"{one['url']}: ")
        error = printable(reason)
        state = f"{one['url']}  {error or 'reachable'}" if one["url"] else "none"
        lines.append(f"{name:<10}  {state}")
    lines += _delayed(system["broker"].get("delayed", {}))
    lines.append(f"{'disk':<10}  {printable(system['disk']['error']) or 'can be written to'}")
    if system["operations"]["url"]:
        lines.append(f"operations  {system['operations']['url']}")
    return "\n".join(lines)


def _schedules(schedules: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the table of schedules, with the last and the next firing of each."""
    rows = [("schedule", "CRON", "TIME ZONE", "LAST", "NEXT")]
    for name, one in schedules.items():
        last = one["last"] or ("not fired yet" if one["last_known"] else "unknown")
        rows.append((name, one["cron"], one["timezone"], last, one["next"]))
    return _aligned(rows)


def _hosts_table(hosts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of hosts and their shards, if there are several hosts."""
    if len(hosts) < 2:  # noqa: PLR2004 -- several
        return []
    rows = [("host", "", "SHARDS", "")]
    for one in hosts:
        here = "this host" if one["this_host"] else ""
        rows.append((one["host"], here, str(len(one["works_on"])), ", ".join(one["works_on"])))
    lines = ["", *_aligned(rows)]
    lines += [
        f"{printable(one['host'])} has another topology file than this host; give all hosts the"
        " same file"
        for one in hosts
        if not one["same_file"]
    ]
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns; the second column, the state, is in colours.

    Characters of cells that a terminal would interpret are escaped before the colours are added.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[1] = click.style(cells[1], fg=COLOURS.get(row[1]))
        lines.append("  ".join(cells).rstrip())
    return lines


def _delayed(counts: dict[str, int]) -> list[str]:
    """Return lines with the numbers of delayed messages; none if there are no such messages.

    Args:
        counts: the fields of timer.DelayedCounts: "waiting" for messages whose delay is not over,
            and "undelivered" for due messages that no queue has accepted. Empty if they are not
            known.

    """
    lines = []
    if counts.get("waiting"):
        text = counted(counts["waiting"], "message waits", "messages wait")
        lines.append(f"{'delayed':<10}  {text} for the end of the delay")
    if counts.get("undelivered"):
        lines.append(
            f"{'delayed':<10}  messages that are due but that no queue of the topology takes:"
            f" {counts['undelivered']:,}; add a queue for their exchange and routing key, then run"
            " `feedbus apply`, which sends them"
        )
    return lines


def _text(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _span(seconds: float) -> str:
    """Return a duration as 1h05m, 5m07s or 7s."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
