"""The settings with which the system runs: the topology's text, and a digest for each watcher.

A watcher is the supervisor's object for the processes of one consumer or of one [processes.NAME]
table, or for the operations process. Its digest is a hash of its options. If a new topology gives
the watcher another digest, the watcher must be restarted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from feedbus.plan.changes import Watchers
from feedbus.process.private_files import open_private
from feedbus.process.process_setup import SUPERVISED
from feedbus.supervisor.watcher_options import applied_path, broker_file, watchers
from feedbus.topology import OPERATIONS, Queue, Topology
from feedbus.units import counted

PROTOCOL = 2  # version of the supervisor's requests and answers; feedbus 0.1 sends none
OPTIONS_CHANGED = "its options have changed since it was started"
SHOWN_CHANGED = "the queues that it shows, its schedules or its own options have changed"
# These options change only the ring, so an existing shard is not restarted.
PLACED = ("shards", "weights")


@dataclass(frozen=True, slots=True)
class AppliedSettings:
    """The options with which the watchers of one supervisor run, as digests.

    A watcher is the supervisor's object for the processes of one consumer or of one
    [processes.NAME] table, or for the operations process. The supervisor keeps one AppliedSettings
    object, and `feedbus apply` compares it with the settings of the new topology.

    Attributes:
        watchers: maps the name of each watcher to the digest of its options.
        exchanges: maps the name of each exchange to the digest of its options.
        schedules: maps the name of each schedule to the digest of its options.
        counts: maps the name of each watcher to its number of processes.

    """

    watchers: dict[str, str]
    exchanges: dict[str, str]
    schedules: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, topology: Topology) -> Self:
        """Return the settings of a topology.

        They are digests of the options of its watchers, exchanges and schedules.

        Raises:
            UsageError: the option `user` of a watcher names no user of this machine, or it names
                another user although feedbus does not run as root.

        """
        # Each watcher is restarted if one of these values changes.
        common = [topology.name, topology.broker_url.reveal(), repr(topology.store)]
        common.append(topology.store_url.reveal() if topology.store_url is not None else "")
        common.append(str(topology.consumer_timeout_seconds))
        found, counts = {}, {}
        queues = {name: _plain(queue) for name, queue in topology.queues.items()}
        for options in watchers(topology):
            name = options["name"]
            counts[name] = options["numprocesses"]
            # The process id of the supervisor is not an option: it differs after each start.
            environment = {k: v for k, v in options["env"].items() if k != SUPERVISED}
            consumer = topology.consumers.get(name)
            declared: Any = asdict(queues[consumer.queue.name]) if consumer else {}
            if consumer:
                queue = topology.queues[consumer.queue.name]
                declared["handlers"] = [*queue.handlers.items()]  # their order matters
                if topology.codecs:
                    declared["codecs"] = dict(topology.codecs)
                if topology.middleware:
                    declared["middleware"] = topology.middleware
            for option in PLACED:
                declared.pop(option, None)
            # The operations process shows all queues and publishes the messages of the schedules.
            if name == OPERATIONS and topology.operations is not None:
                declared = [asdict(topology.operations), *map(asdict, queues.values())]
                declared += map(repr, topology.schedules.values())
            found[name] = _digest([common, options | {"env": environment}, declared])
        exchanges = {
            exchange.name: _digest(
                [exchange.type, exchange.pack, dict(exchange.arguments), exchange.content_type]
                + ([exchange.external_name] if exchange.external_name else [])
            )
            for exchange in topology.exchanges.values()
        }
        schedules = {one.name: _digest(repr(one)) for one in topology.schedules.values()}
        return cls(found, exchanges, schedules, counts)

    def difference(
        self, wanted: AppliedSettings, supervisor_pid: int, states: Mapping[str, Mapping[str, Any]]
    ) -> Watchers:
        """Return which watchers must be added, restarted, started, removed or kept.

        The result also names the schedules whose options have changed. `feedbus plan` and `feedbus
        apply` call the method on the settings with which the watchers run.

        Args:
            wanted: the settings of the new topology.
            supervisor_pid: the supervisor's process id, which becomes a part of the result.
            states: maps the name of each watcher to its state, from watcher_state.state().

        """
        changed = sorted(
            exchange
            for exchange, digest in wanted.exchanges.items()
            if self.exchanges.get(exchange, digest) != digest
        )
        restarted, started, kept = {}, {}, []
        for name, digest in wanted.watchers.items():
            if name not in self.watchers:
                continue
            if self.watchers[name] != digest:
                restarted[name] = SHOWN_CHANGED if name == OPERATIONS else OPTIONS_CHANGED
            elif changed:  # every process can publish to every exchange
                restarted[name] = f"exchanges that it uses have changed: {', '.join(changed)}"
            elif why := why_restarted(states.get(name, {}), wanted.counts[name]):
                started[name] = why
            else:
                kept.append(name)
        return Watchers(
            supervisor_pid=supervisor_pid,
            added=tuple(name for name in wanted.watchers if name not in self.watchers),
            restarted=restarted,
            started=started,
            removed=tuple(name for name in self.watchers if name not in wanted.watchers),
            kept=tuple(kept),
            schedules=tuple(
                name
                for name, digest in wanted.schedules.items()
                if self.schedules.get(name, digest) != digest
            ),
        )


def why_restarted(state: Mapping[str, Any], count: int) -> str:
    """Return why a watcher must be started again, or "" if it runs as the topology declares.

    Args:
        state: the state of the watcher, from watcher_state.state(): a mapping with keys such as
            "state" and "processes".
        count: the number of processes that the topology declares for the watcher.

    """
    doing = state.get("state")
    if doing in {"stopped", "stopping"}:
        return "it was stopped and is started"
    if doing == "gave up":
        return "the supervisor had given it up; it is started again"
    if state.get("wanted_processes", count) != count:
        running = counted(state["wanted_processes"], "process", "processes")
        return f"it runs {running} instead of {count}"
    return ""


def write_applied(topology: Topology, text: str) -> None:
    """Write the text of topology.toml to the file that the processes read.

    The supervisor calls the function at its start and at each `feedbus apply`. The file has the
    permissions of topology.toml, and its owner can always read it. A new file replaces the old
    file, because a process that starts may read the old file at the same time.

    Args:
        topology: the topology.
        text: the content of its topology.toml.

    """
    _replace(applied_path(topology), text, topology.path.stat().st_mode & 0o777 | 0o400)


def write_broker(topology: Topology) -> None:
    """Write the URL of the supervisor's broker, without passwords, to a file in the run folder.

    The supervisor calls the function at its start and at each `feedbus apply`. Commands compare the
    URL with the URL of their own broker.
    """
    _replace(broker_file(topology), str(topology.broker_url), 0o600)


def _replace(path: Path, text: str, mode: int) -> None:
    beside = path.with_suffix(".new")
    handle = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    beside.chmod(mode)
    beside.replace(path)


def _plain(queue: Queue) -> Any:
    """Return a copy of a queue for asdict(): with dicts instead of mapping proxies.

    asdict() cannot copy mapping proxies.
    """
    values = {each.name: getattr(queue, each.name) for each in fields(queue)}
    plain: Any = {name: dict(value) for name, value in values.items() if isinstance(value, Mapping)}
    return replace(queue, **plain)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
