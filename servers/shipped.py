"""A private RabbitMQ with the settings that `feedbus init` writes, and the user of Compose."""

from __future__ import annotations

import shutil
from pathlib import Path

import amqp

from servers.compose import Compose
from servers.ports import free_port
from servers.rabbitmq import SHIPPED, RabbitMQ


class ShippedRabbitMQ(RabbitMQ):
    """One node; nothing but the addresses that it listens on is the test's own."""

    def __init__(self, folder: Path, compose: Compose) -> None:
        environment = compose.environment("rabbitmq")
        self.credentials = {
            name: text for name, text in environment.items() if name.startswith("RABBITMQ_")
        }
        self.prometheus_port = free_port()
        super().__init__(folder)

    def _write(self, config: str, cookie: str) -> None:
        super()._write(config, cookie)
        shutil.copy(SHIPPED / "enabled_plugins", self.folder)
        (self.folder / "rabbitmq.conf").write_text(
            f"{(SHIPPED / 'rabbitmq.conf').read_text()}\n"
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.management_port}\n"
            "prometheus.tcp.ip = 127.0.0.1\n"
            f"prometheus.tcp.port = {self.prometheus_port}\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.credentials

    def is_ready(self) -> bool:
        """Return whether the user of the environment can log in."""
        name, password = (self.credentials[f"RABBITMQ_DEFAULT_{what}"] for what in ("USER", "PASS"))
        try:
            with amqp.Connection(
                f"127.0.0.1:{self.port}", userid=name, password=password, connect_timeout=5
            ):
                return True
        except (OSError, amqp.AMQPError):
            return False
