"""Kombu's transport for a broker in memory; virtual_host or the URL contains its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feedbus.transports.memory.broker import find
from feedbus.transports.sqlite import transport
from feedbus.transports.sqlite.connection import Connection
from feedbus.transports.sqlite.read_only_view import BrokerRows

SCHEME = "memory://"


class Transport(transport.Transport):
    """Kombu's transport for brokers in memory; the first connection to a name creates the broker.

    Example:
        >>> kombu.Connection(transport=Transport, virtual_host="tests")
    """

    def _open(
        self, client: Any, options: Mapping[str, Any], *, confirm_publish: bool
    ) -> Connection:
        del options
        broker = find(broker_name(client))
        return broker.connection_type(broker.open(), confirm_publish=confirm_publish, client=client)

    def survey(self) -> BrokerRows:
        """Return the exchanges, queues and bindings of the broker as rows, for an inventory."""
        return find(broker_name(self.client)).survey()

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: ARG002, FBT001, FBT002 -- Kombu's signature
        """Return the URL of the broker, such as memory://tests.

        Kombu calls it, for example for its logs. The arguments are ignored, because the URL has no
        password.
        """
        return f"{SCHEME}{broker_name(self.client)}"


def broker_name(client: Any) -> str:
    """Return the name of the broker to which a Kombu connection belongs.

    The name is the connection's virtual_host. If it has none, the name is what follows memory:// in
    the URL.

    Args:
        client: the `kombu.Connection`.

    Raises:
        ValueError: there is no name.
    """
    if client.virtual_host not in {None, "", "/"}:
        return str(client.virtual_host)
    name = (client.hostname or "").removeprefix(SCHEME).strip("/")
    if not name or name == "localhost":  # Kombu's default
        msg = (
            "expected the name of a memory broker as virtual_host, or a URL such as memory://tests"
        )
        raise ValueError(msg)
    return str(name)
