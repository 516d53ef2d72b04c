"""A private cluster of three RabbitMQ nodes on this machine, each on ports of its own."""

from __future__ import annotations

import json
import secrets
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Self
from urllib.parse import quote

from servers.rabbitmq import Epmd, RabbitMQ
from servers.versions import Version

NODES = ("one", "two", "three")


class Cluster:
    """Three nodes that find one another; `with Cluster(folder) as cluster:` runs them."""

    def __init__(self, folder: Path, version: Version) -> None:
        self._ending = ExitStack()
        self._epmd = Epmd(version)
        self._ending.callback(self._epmd.close)
        cookie = secrets.token_hex(16)
        config = "cluster_formation.peer_discovery_backend = classic_config\n" + "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}@localhost\n"
            for number, name in enumerate(NODES, 1)
        )
        config += "queue_leader_locator = balanced\n"
        self.nodes: list[RabbitMQ] = []
        for name in NODES:
            (folder / name).mkdir()
            node = RabbitMQ(
                folder / name,
                name=name,
                config=config,
                epmd=self._epmd,
                cookie=cookie,
                schedulers=1,
                version=version,
            )
            self._ending.callback(node.close)
            self.nodes.append(node)

    def url(self, first: int) -> str:
        """Return the URLs of all nodes, to be tried from this one on."""
        return ";".join(node.url for node in self.nodes[first:] + self.nodes[:first])

    def leader(self, queue: str, ask: RabbitMQ) -> RabbitMQ | None:
        """Return the node that leads a quorum queue, None while there is none."""
        described = json.loads(ask.get(f"/api/queues/%2F/{quote(queue, safe='')}"))
        return next((node for node in self.nodes if node.node == described.get("leader")), None)

    def __enter__(self) -> Self:
        try:
            threads = [Thread(target=node.start) for node in self.nodes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            running = json.loads(self.nodes[0].get("/api/nodes"))
            assert len(running) == len(NODES), running
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()
