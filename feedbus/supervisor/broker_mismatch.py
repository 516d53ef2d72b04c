"""Find out whether a command uses another broker than the running supervisor.

The URL of the broker usually comes from an environment variable. If the service has the variable
and the shell of the operator does not, a command would use the default of topology.toml. For
example, it would publish into a file that no consumer reads.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from feedbus.config.environment_variables import names_in
from feedbus.errors import FeedbusError, UsageError
from feedbus.name_list import listed
from feedbus.process.file_locks import lock_holder
from feedbus.process.process_setup import SUPERVISED
from feedbus.process.slots import slot_locks
from feedbus.supervisor.watcher_options import applied_path, broker_file, supervisor_lock
from feedbus.topology import Topology
from feedbus.urls import BrokerUrl, UrlError, parse_broker_url

LOCAL = {"127.0.0.1", "::1"}  # other names of localhost


def other_broker(topology: Topology, *, changes_broker: bool = False) -> str:
    """Return what to do if the supervisor of the topology's folder `var` uses another broker.

    Args:
        topology: the topology, with the values of this process's environment variables.
        changes_broker: whether the command may change the broker of the supervisor. It is True for
            `feedbus plan` and `feedbus apply`. Then the result is also "" if the URL of the broker
            in topology.toml was edited, and the edited file is not applied yet.

    Returns:
        One sentence for the operator, without passwords. "" if both use the same broker, if no
        supervisor runs, or if this process belongs to the supervisor.

    """
    pid = None if SUPERVISED in os.environ else _holder(supervisor_lock(topology))
    if pid is None:
        return ""
    try:
        used = parse_broker_url(broker_file(topology).read_text(encoding="utf-8"))
    except (OSError, UrlError):  # the supervisor has just begun, or is of another version
        return ""
    if _same(used, topology.broker_url):
        return ""
    written = _written_url(topology.path)
    edited = written != _written_url(applied_path(topology))
    if edited and changes_broker:
        return ""
    remedy = (
        "[broker] url in the file was changed: run `feedbus apply`"
        if edited
        else f"run the command with the same {listed(names_in(written)) or 'URL'} as the supervisor"
    )
    return (
        f"the supervisor, process {pid}, uses broker {used}, but for this command {topology.path}"
        f" names broker {topology.broker_url}: {remedy}"
    )


def require_same_broker(topology: Topology, *, changes_broker: bool = False) -> None:
    """Raise UsageError if the supervisor of this folder uses another broker than the topology.

    Args:
        topology: the topology, with the values of this process's environment variables.
        changes_broker: whether the command may change the broker of the supervisor. It is True for
            `feedbus plan` and `feedbus apply`. Then no error is raised if the URL of the broker in
            topology.toml was edited, and the edited file is not applied yet.

    Raises:
        UsageError: the brokers differ; the text names both and says what to do.

    """
    if note := other_broker(topology, changes_broker=changes_broker):
        raise UsageError(note)


def unread_note(topology: Topology) -> str:
    """Return a note if no process on this host reads the embedded broker of a topology, or "".

    A broker on RabbitMQ can have consumers on other hosts. So there is no note about it.
    """
    if not topology.broker_url.embedded:
        return ""
    locks = (supervisor_lock(topology), *slot_locks(topology.var / "run"))
    if any(_holder(path) is not None for path in locks):
        return ""
    return (
        f"no consumer with the folder {topology.var} runs: messages wait in"
        f" {topology.broker_url} until `feedbus up`"
    )


def _holder(path: Path) -> int | None:
    """Return the process that holds a lock; None also if this user may not open the file."""
    try:
        return lock_holder(path)
    except (OSError, FeedbusError):
        return None


def _same(one: BrokerUrl, other: BrokerUrl) -> bool:
    """Whether two URLs name the same file, or nodes of which at least one is the same."""
    if one.embedded or other.embedded:
        return one.file == other.file
    return bool(_addresses(one) & _addresses(other))


def _addresses(url: BrokerUrl) -> set[tuple[str, str]]:
    """Return the host and the virtual host of each node of RabbitMQ.

    The ports are left out: with and without TLS, the same broker has different ports.
    """
    return {
        ("localhost" if node.host in LOCAL else node.host, node.virtual_host) for node in url.nodes
    }


def _written_url(path: Path) -> str:
    """Return the broker's URL in a topology file, with its ${VARIABLES}; "" if there is none."""
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return str(tables.get("broker", {}).get("url", ""))
