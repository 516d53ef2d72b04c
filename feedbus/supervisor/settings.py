"""What of a topology each watcher was started with, as digests that can be compared."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from feedbus.lifeline import SUPERVISED
from feedbus.plan.changes import Watchers
from feedbus.supervisor.watchers import watchers
from feedbus.topology import Topology

PLACED = ("shards", "weights")  # a ring's business: a shard that stays need not start anew


@dataclass(frozen=True, slots=True)
class Settings:
    """Digests by watcher and by exchange."""

    watchers: dict[str, str]
    exchanges: dict[str, str]

    @classmethod
    def of(cls, topology: Topology) -> Self:
        """Return the settings of a topology's watchers.

        Raises:
            UsageError: a watcher's user is unknown, or only root could change to it.

        """
        common = [topology.name, topology.broker_url.reveal(), topology.store_url.reveal()]
        common.append(str(topology.consumer_timeout_seconds))
        found = {}
        for options in watchers(topology):
            name = options["name"]
            environment = {k: v for k, v in options["env"].items() if k != SUPERVISED}
            consumer = topology.consumers.get(name)
            queue = asdict(_plain(consumer.queue)) if consumer else {}
            for field in PLACED:
                queue.pop(field, None)
            found[name] = _digest([common, options | {"env": environment}, queue])
        exchanges = {
            exchange.name: _digest([exchange.type, exchange.pack, dict(exchange.arguments)])
            for exchange in topology.exchanges.values()
        }
        return cls(found, exchanges)

    def difference(self, wanted: Settings, supervisor_pid: int) -> Watchers:
        """Say what has to be done so that these become the wanted ones."""
        changed = sorted(
            exchange
            for exchange, digest in wanted.exchanges.items()
            if self.exchanges.get(exchange, digest) != digest
        )
        restarted, kept = {}, []
        for name, digest in wanted.watchers.items():
            if name not in self.watchers:
                continue
            if self.watchers[name] != digest:
                restarted[name] = "its settings differ from those that it was started with"
            elif changed:
                restarted[name] = f"what it knows of {', '.join(changed)} has changed"
            else:
                kept.append(name)
        return Watchers(
            supervisor_pid=supervisor_pid,
            added=tuple(name for name in wanted.watchers if name not in self.watchers),
            restarted=restarted,
            removed=tuple(name for name in self.watchers if name not in wanted.watchers),
            kept=tuple(kept),
        )


def _plain(queue: Any) -> Any:
    return replace(queue, arguments=dict(queue.arguments))  # asdict copies no mapping proxy


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
