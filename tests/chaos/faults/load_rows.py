"""Rows whose fault is injected while the application works: processes, servers, connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from servers.proxy import SilentProxy
from tests.chaos.faults import reader
from tests.chaos.faults.cells import Cell, run_loaded
from tests.chaos.faults.columns import started
from tests.chaos.faults.injectors import Fault, PublisherKills, RandomKills, Sequential, outages
from tests.chaos.faults.loaded_system import LoadedSystem, loaded
from tests.chaos.faults.results import Result

OLDEST_POSTGRES = 15
SILENT_SECONDS = 30.0
HEARTBEAT_SECONDS = 20.0
RESTART_SECONDS = 5.0
PATIENCE_SECONDS = 180.0
SECONDS_OF_A_FAULT = 50  # the load continues until the last one
SHORT_RATE = 300


def kills(cell: Cell, folder: Path) -> Result:
    """Kill a random process every two seconds."""
    with started(cell.where, folder) as servers, loaded(servers) as system:
        kills = RandomKills(cell.random, 1.0 if cell.short else 2.0)
        return run_loaded(cell, system, kills, rate=SHORT_RATE if cell.short else 0)


def rabbitmq(cell: Cell, folder: Path) -> Result:
    """Stop and kill RabbitMQ."""
    with started(cell.where, folder) as servers, loaded(servers) as system:
        node = servers.rabbitmq
        assert node is not None
        faults = outages("RabbitMQ", node, cell.random, *((1, 0) if cell.short else (5, 2)))
        return run_loaded(cell, system, Sequential.shuffled(faults, cell.random), {})


def postgresql(cell: Cell, folder: Path) -> Result:
    """Stop and kill PostgreSQL."""
    with started(cell.where, folder, postgres=OLDEST_POSTGRES) as servers:
        assert servers.postgres is not None
        counts = (1, 1) if cell.short else (5, 2)
        faults = outages("PostgreSQL", servers.postgres, cell.random, *counts)
        with loaded(servers) as system:
            return run_loaded(cell, system, Sequential.shuffled(faults, cell.random), {})


def repeats(cell: Cell, folder: Path) -> Result:
    """Publish everything twice, by publishers that are killed and publish again."""
    with (
        started(cell.where, folder) as servers,
        loaded(servers, FEEDBUS_CHAOS_COPIES="2") as system,
    ):
        return run_loaded(cell, system, PublisherKills(cell.random), {"copies of each": "2"})


def connections(cell: Cell, folder: Path) -> Result:
    """Cut connections, and let others fall silent, between the system and each server."""
    with ExitStack() as stack:
        servers = stack.enter_context(started(cell.where, folder, postgres=OLDEST_POSTGRES))
        assert servers.postgres is not None
        ports = {"PostgreSQL": servers.postgres.port}
        if servers.rabbitmq is not None:
            ports["RabbitMQ"] = servers.rabbitmq.port
        proxies = {name: stack.enter_context(SilentProxy(port)) for name, port in ports.items()}

        def through(url: str) -> str:
            for name, proxy in proxies.items():
                url = url.replace(f":{ports[name]}/", f":{proxy.port}/")
            return url

        urls = {
            "broker_url": through(servers.broker_url),
            "store_url": through(servers.store_url),
        }
        system = stack.enter_context(loaded(servers, **urls))
        recovery = Recovery(system)
        faults = [
            fault
            for name, proxy in proxies.items()
            for fault in recovery.faults(name, proxy, short=cell.short)
        ]
        count = len(faults) if cell.short else 10
        repeated = (faults * count)[:count]
        injector = Sequential.shuffled(repeated, cell.random)
        figures: dict[str, str] = {}
        rate = SHORT_RATE if cell.short else cell.size // (count * SECONDS_OF_A_FAULT)
        result = run_loaded(cell, system, injector, figures, rate=rate)
        slowest = max(recovery.seconds, default=0.0)
        figures["slowest recovery"] = f"{slowest:.0f} s"
        if slowest > 2 * HEARTBEAT_SECONDS + RESTART_SECONDS:
            result.problems.append(f"a recovery took {slowest:.0f} s")
        return result


@dataclass(slots=True)
class Recovery:
    """Faults of connections, and how long the system took to handle new records after each."""

    system: LoadedSystem
    seconds: list[float] = field(default_factory=list)

    def faults(self, name: str, proxy: SilentProxy, *, short: bool) -> list[Fault]:
        """Return the faults of the connections to a server."""
        cut = (f"connections to {name} cut", self._measured(proxy.cut))
        silent = (f"{name} silent", self._measured(proxy.swallow, SILENT_SECONDS))
        return [cut] if short else [cut, silent]

    def _measured(self, inject: Callable[[], None], least: float = 0.0) -> Callable[[], None]:
        def measured() -> None:
            web = self.system.publishers[1]
            before = web.rounds
            keys = {f"key-{number}" for number in range(web.first, web.last)}
            inject()
            begun = time.monotonic()
            while time.monotonic() - begun < PATIENCE_SECONDS:
                latest = reader.latest(self.system.store_url, "notice")
                ended = web.process is None or web.process.poll() is not None
                if ended or min(latest.get(key, -1) for key in keys) > before + 1:
                    break
                time.sleep(0.5)
            self.seconds.append(time.monotonic() - begun)
            time.sleep(max(0.0, begun + least - time.monotonic()))

        return measured
