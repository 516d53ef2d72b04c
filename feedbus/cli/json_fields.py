"""The fields of the JSON objects that commands print, for docs/reference/cli.md.

A path has the names of nested fields, with a dot between two names. `[]` after a name stands for
each item of a list, and NAME stands for a name of the topology. A test compares the paths with the
output of the commands.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from feedbus.errors import Problem
from feedbus.hosts.assignment_file import SeenHost
from feedbus.plan import Change, Draining, Evenness, HotKey, RingChange, Wait
from feedbus.schedules.overview import ScheduleOverview

# The meaning of a path. A class stands for its attributes, which its docstring describes.
Meaning = str | type[Any]

STATE: Mapping[str, Meaning] = {
    "state": '"running"; "starting": not all processes are ready, and none holds; "holding": a '
    "process waits during an outage, perhaps before it is ready, or handles only waiting records "
    "because `waiting_limit` is reached; "
    '"restarting": a process has ended by itself and is started again after a wait; '
    '"stopping"; "stopped": stopped by an operator, or nothing runs; "gave up": it has failed too '
    'often and is not restarted; "leaving": the topology no longer has it, and it empties its '
    'queue; "not applied": it is in the topology, but the running supervisor does not have it yet',
    "processes[].pid": "the process id",
    "processes[].slot": "the number of the process among the processes of the consumer, from 1",
    "processes[].ready": "whether the process is ready",
    "processes[].uptime_seconds": "how long the process has been running",
    "processes[].holding": 'why the process holds, such as an outage; "" if it does not',
    "processes[].stopping_seconds": "the time since it was asked to stop; null if it was not",
    "processes[].killed_in_seconds": "the time until it is killed; null if it is not stopping",
    "wanted_processes": "how many processes the supervisor runs",
    "restarts": "how many times a process was restarted after it had ended by itself",
    "last_exit": 'how the last process that ended has ended; "" if none has ended',
    "changed_code[]": "the files that have changed since the processes imported them",
}
SPREAD: Mapping[str, Meaning] = {
    "shards[].name": "the name of the consumer of the shard",
    "shards[].weight": "the weight of the shard",
    "shards[].records": "how many records of the sample the shard gets",
    "shards[].share": "the same, divided by the number of all records",
    "max_over_mean": "the records of the busiest shard, divided by the mean of all shards",
    "max_over_share": "the records of the busiest shard, divided by its share by weight",
}
REACHABLE: Mapping[str, Meaning] = {
    "url": "the URL without its password",
    "reachable": "whether it answers",
    "error": 'why feedbus cannot use it, or ""',
}


def _under(path: str, fields: Mapping[str, Meaning]) -> dict[str, Meaning]:
    return {f"{path}.{name}": meaning for name, meaning in fields.items()}


FIELDS: Mapping[str, Mapping[str, Meaning]] = {
    "check": {
        "ok": "whether the topology has no problem",
        "problems[]": Problem,
        "summary": "how many objects the topology has; null if it has problems",
        **{
            f"summary.{kind}": f"the number of {text}"
            for kind, text in {
                "exchanges": "exchanges",
                "queues": "queues",
                "shards": "shards of all queues",
                "consumers": "consumers",
                "processes": "[processes.NAME] tables",
                "commands": "commands in [commands]",
            }.items()
        },
    },
    "plan": {
        "changes[]": Change,
        "rings[].action": '"create" for the first ring of an exchange, otherwise "change"',
        "rings[]": RingChange,
        "rings[].before": Evenness,
        "rings[].after": Evenness,
        "rings[].waits[]": Wait,
        "rings[].hot_key": HotKey,
        "draining[]": Draining,
        "consumers": "the changes of consumers and processes; null if no supervisor runs",
        "consumers.supervisor": "the process id of the supervisor",
        "consumers.add[]": "the names that the supervisor does not have yet",
        "consumers.restart.NAME": "why it is restarted with other options",
        "consumers.start.NAME": "why it is started again",
        "consumers.remove[]": "the names that are no longer in the topology",
        "consumers.untouched[]": "the names that run as the topology declares them",
        "notes[]": "further sentences for the operator",
        "unacknowledged_age_seconds": "how old the numbers of unacknowledged messages can be; 0 if "
        "they are as new as the other numbers",
        **{
            f"counts.{action}": f'the number of changes with the action "{action}"'
            for action in ("create", "change", "delete", "dangerous")
        },
    },
    "down": {"stopped": "whether something was running"},
    "restart": {
        "restarted[].name": "the name of the consumer or process",
        "restarted[].ready": "whether its new processes are ready",
        "restarted[].seconds": "how long the restart took",
        "restarted[].pids[]": "the process ids of the new processes",
        "error": 'why the last one is not ready, or ""',
        "untouched[]": "the names that were not restarted because of the error",
    },
    "status": {
        "supervisor.pid": "the process id of the supervisor; null if nothing runs",
        "supervisor.error": 'why the supervisor\'s state is not known, or ""',
        "supervisor.var": "the folder of the supervisor: `var` of the topology",
        **_under("broker", REACHABLE),
        "broker.delayed.waiting": "how many messages wait for the end of their delay",
        "broker.delayed.undelivered": "how many messages are due, but no queue accepts them",
        **_under("store", REACHABLE),
        "disk.error": 'why a folder of feedbus cannot be written to, or ""',
        **_under("consumers.NAME", STATE),
        "consumers.NAME.ready": "messages in its own queue; null, as the next three fields, if the "
        "broker is unavailable",
        "consumers.NAME.retrying": "messages of its `[queues.NAME]` table that wait for their next "
        "attempt",
        "consumers.NAME.waiting": "records that wait for an earlier record of their key",
        "consumers.NAME.dead": "dead letters of its `[queues.NAME]` table",
        "consumers.NAME.handled": "how many records it has handled; each attempt counts, and each "
        "invalid record; null if it has never run",
        "consumers.NAME.dead_dropped": "how many dead letters were deleted because of `max_age` or "
        "`max_length`",
        "processes.NAME": "the same fields for each other process, from `state` to `changed_code`",
        "hosts[]": SeenHost,
        "hosts[].this_host": "whether it is the host on which the command runs",
        "schedules.NAME": ScheduleOverview,
        "operations.url": "the URL of the operations page; null if it does not run",
        "notes[]": "further sentences for the operator",
    },
    "dead list": {
        "id": "the ID for `feedbus dead show`, `requeue` and `drop`",
        "queue": "the queue in topology.toml",
        "key": "the routing key",
        "reason": "why the message is a dead letter",
        "errors": 'maps each invalid field to its errors; the field "" is the whole body',
        "traceback[]": "the lines of the end of the handler's traceback",
        "attempts": "how many times the record was handled",
        "failed_at": "when it became a dead letter, in ISO 8601; null if it is not known",
        "content_type": "the content type of the body",
        "properties": "the other properties of the message",
        "headers": "the headers of the message, without those that feedbus adds to a dead letter",
        "faults[]": "the headers and properties that cannot be decoded",
        "body": "the body as text; only the first 10,000 bytes",
        "body_bytes": "the size of the body",
    },
    "spread": {
        "exchange": "the hash exchange",
        "records": "the number of records in the sample",
        **SPREAD,
        "against.file": "the file of --against; without this option, there is no field `against`",
        **_under("against", SPREAD),
        "against.moved": "how many records move to another shard",
        "against.moved_share": "the same, divided by the number of all records",
        "against.moves[].from": "the shard in the file of --against",
        "against.moves[].to": "the shard in the topology",
        "against.moves[].records": "how many records move from the one to the other",
    },
    "balance": {
        "exchange": "the hash exchange",
        "keys": "the number of keys; a key on two lines counts twice",
        "records": "the number of records",
        "before.buckets": "the number of buckets of the ring with the weights of the file",
        **_under("before", SPREAD),
        "after.buckets": "the number of buckets of the ring with the new weights",
        **_under("after", SPREAD),
        "changes": "whether the new weights are clearly better",
        "moved_share": "the part of the records that move to another shard, from 0 to 1",
        "weights.NAME[]": "the new weights of a queue, in the order of its shards",
        "toml": "the new weights as lines for topology.toml",
        "choices[].buckets": "a possible number of buckets",
        "choices[].max_over_mean": "how even the shards are with that number",
        "floor": "the smallest possible max_over_mean: one shard gets all records of a key",
        "written": "whether the weights were written to the file",
    },
}


def meanings(command: str) -> dict[str, str]:
    """Map each path in the JSON output of a command to its meaning, for docs/reference/cli.md.

    Args:
        command: the name of the command, such as "status" or "dead show".

    """
    found: dict[str, str] = {}
    for path, meaning in FIELDS[command].items():
        if isinstance(meaning, str):
            found[path] = meaning
        else:
            found.update((f"{path}.{name}", text) for name, text in _attributes(meaning))
    return found


def _attributes(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield each attribute in the docstring of a class, with its text."""
    _, _, section = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
    for entry in re.split(r"\n(?=    \w)", section.rstrip()):
        name, _, text = entry.strip().partition(": ")
        yield name, re.sub(r"\bNone\b", "null", " ".join(text.split())).removesuffix(".")


def markdown(command: str) -> str:
    """Return a table in Markdown of the fields in the JSON output of a command.

    Args:
        command: the name of the command, such as "status" or "dead show".

    """
    lines = ["| field of the JSON output | meaning |", "|---|---|"]
    for path, meaning in meanings(command).items():
        text = meaning.replace("|", "\\|")
        lines.append(f"| `{path}` | {text} |")
    return "\n".join(lines) + "\n"
