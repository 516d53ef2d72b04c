"""Supervised processes that are not consumers, and the logs of all processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from feedbus.topology.exchanges import empty_mapping

OPERATIONS = "operations"  # the name of the process that serves metrics and the operations page
# A port that others rarely use: exporters of Prometheus use 9100 to 9999, RabbitMQ uses 5672 and
# 15672 to 15692, and Linux uses the ports from 32768 on for outgoing connections.
OPERATIONS_PORT = 8672


@dataclass(frozen=True, slots=True)
class Process:
    """A table [processes.NAME]: a supervised process that is not a consumer, such as a web server.

    Attributes:
        name: the name in topology.toml.
        command: the program and its arguments; it is started in the folder of topology.toml.
        processes: how many such processes run on each host.
        user: the user that the process runs as; None for the user who starts feedbus.
        start_retries: after this many failures in a row, each right after the start of a process,
            no process is started any more.
        stop_timeout_seconds: how long the process may take to end before it is killed; None for
            5 s.
        memory_limit_bytes: a process that uses more memory is restarted; None for no limit.
        environment: environment variables, in addition to the inherited ones.
    """

    name: str
    command: tuple[str, ...]
    processes: int = 1
    user: str | None = None
    start_retries: int = 10
    stop_timeout_seconds: float | None = None
    memory_limit_bytes: int | None = None
    # The environment may contain secrets, so repr() leaves it out.
    environment: Mapping[str, str] = field(default_factory=empty_mapping, repr=False)


@dataclass(frozen=True, slots=True)
class Operations:
    """The table [operations]: the HTTP address of the operations process on each host.

    Attributes:
        host: the address. If other machines can reach it, they get answers only with the API token
            (FEEDBUS_API_TOKEN).
        port: the port. With None, it is 8672, or a free port if 8672 is in use. With 0, it is any
            free port.
    """

    host: str = "127.0.0.1"
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Logging:
    """The options of the table [logging]: the format of the logs of feedbus's processes.

    Attributes:
        format: `text` or `json`.
    """

    format: str = "text"
