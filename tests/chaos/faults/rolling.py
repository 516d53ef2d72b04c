"""The row of the rolling upgrade: three hosts of feedbus 0.1, each replaced by this version."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from feedbus import config
from tests.chaos.faults.cells import Cell, run_loaded
from tests.chaos.faults.columns import Servers, started
from tests.chaos.faults.injectors import Sequential
from tests.chaos.faults.loaded_system import LoadedSystem
from tests.chaos.faults.results import Result
from tests.old_version import unpack
from tests.projects import environment_without_options
from web.demo.running import Running

APPLICATION = Path(__file__).parent / "rolling_application" / "topology.toml"
HOSTS = 3
READY = {"old": "ready in ", "new": "processes are ready"}
READY_SECONDS = 120.0
RATES = {True: 25, False: 300}  # by whether it is the short form


@dataclass(slots=True)
class Hosts:
    """Three supervisors with separate folders, which begin with 0.1."""

    servers: Servers
    old: Path
    running: dict[int, Running] = field(default_factory=dict)

    def environment(self, host: int) -> dict[str, str]:
        """Return the environment of a host's processes."""
        return environment_without_options() | {
            "FEEDBUS_BROKER_URL": self.servers.broker_url,
            "FEEDBUS_DATABASE_URL": self.servers.store_url,
            "FEEDBUS_VAR": str(self.servers.folder / f"host{host}"),
            "FEEDBUS_OPERATIONS_PORT": "0",
        }

    def start(self, host: int, version: str) -> None:
        """Start a host and wait until it is ready."""
        environment = self.environment(host)
        topology = config.load(APPLICATION, environ=environment)
        if version == "old":
            environment["PYTHONPATH"] = str(self.old)
        log = self.servers.folder / f"host{host}.{version}.log"
        self.running[host] = Running(topology, environment, log).__enter__()
        deadline = time.monotonic() + READY_SECONDS
        while READY[version] not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            self.running[host].keep_up()
            time.sleep(0.1)

    def upgrade(self, host: int) -> Callable[[], None]:
        """Return a function that stops a host and starts it with this version."""

        def inject() -> None:
            self.running.pop(host).__exit__()
            self.start(host, "new")

        return inject

    def keep_up(self) -> None:
        """Start again each supervisor that has ended, as systemd does."""
        for each in self.running.values():
            each.keep_up()

    def close(self) -> None:
        """Stop every host."""
        for each in self.running.values():
            each.__exit__()


def run(cell: Cell, folder: Path) -> Result:
    """Replace 0.1 by this version on one host after the other."""
    with ExitStack() as stack:
        servers = stack.enter_context(started(cell.where, folder))
        hosts = Hosts(servers, unpack(folder))
        stack.callback(hosts.close)
        for host in range(HOSTS):
            hosts.start(host, "old")
        environment = hosts.environment(0)
        topology = config.load(APPLICATION, environ=environment)
        system = LoadedSystem(servers, topology, environment, hosts, kinds=("identified",))
        stack.callback(system.end_publishers)
        upgrades = [(f"host {host + 1} upgraded", hosts.upgrade(host)) for host in range(HOSTS)]
        return run_loaded(cell, system, Sequential(upgrades), rate=RATES[cell.short])
