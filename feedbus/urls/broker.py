"""The URL of a broker: an SQLite file, nodes of RabbitMQ, or a name in memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from feedbus.urls.parsing import (
    SQLITE,
    absolute,
    file_of,
    refuse,
    refuse_unknown_options,
    scheme_of,
    shown,
    split,
)
from feedbus.urls.tls import TLS_OPTIONS, Tls, tls_of

BROKER_SCHEMES = (SQLITE, "amqp", "amqps", "pyamqp")
AMQP_PORT = 5672
AMQPS_PORT = 5671
GUEST = "guest"
# A password can contain a semicolon, but no '/', which is written as %2F. So a semicolon before a
# scheme ends a URL, and the next node's URL follows.
NEXT_NODE = re.compile(r";(?=[a-z0-9+.-]*://)")


@dataclass(frozen=True, slots=True)
class Node:
    """One RabbitMQ node, from its URL.

    Attributes:
        public: the URL without its password and options.
        host: the name or the address of the host.
        port: the port.
        user: the user.
        password: the password.
        virtual_host: the name of the virtual host.
        heartbeat_seconds: the interval of heartbeats; None if the URL does not set it.
        tls: the options of TLS; None for a connection without TLS.
    """

    public: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    virtual_host: str
    heartbeat_seconds: float | None = None
    tls: Tls | None = None

    def __str__(self) -> str:
        """Return the URL without its password and options."""
        return self.public


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """The address of a broker: a file, a name in memory, or nodes of RabbitMQ.

    A broker in memory belongs to one process, so no topology file can name it.

    Attributes:
        written: the original URL, with its passwords; reveal() returns it.
        file: the file of the embedded broker; None for another broker.
        memory: the name of the broker in memory; None for another broker.
        nodes: the nodes of RabbitMQ, in the order in which they are tried.

    """

    written: str = field(repr=False)
    file: Path | None = None
    memory: str | None = None
    nodes: tuple[Node, ...] = ()

    @classmethod
    def in_memory(cls, name: str) -> Self:
        """Return the URL of the broker in memory with this name.

        Only tests and inline systems use it.
        """
        return cls(f"memory://{name}", memory=name)

    @classmethod
    def unknown(cls) -> Self:
        """Return a URL that cannot be used.

        It takes the place of a broker's URL whose environment variables are not set.
        """
        return cls("")

    @property
    def embedded(self) -> bool:
        """Whether the broker is embedded: in a file or in memory."""
        return not self.nodes

    def within(self, root: Path) -> Self:
        """Return the same URL with absolute paths in place of relative ones.

        The paths are the file of the embedded broker, and the files of certificates and keys.

        Args:
            root: the folder at which relative paths begin.

        """
        if self.file is not None:
            file = absolute(self.file, root)
            return replace(self, written=f"{SQLITE}:///{file}", file=file)
        nodes = (replace(node, tls=node.tls and node.tls.within(root)) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))

    def reveal(self) -> str:
        """Return the original URL, with its passwords; str() and repr() do not show them."""
        return self.written

    def __str__(self) -> str:
        """Return the URL without passwords and options."""
        return self.written if self.embedded else ";".join(map(str, self.nodes))


def parse_broker_url(text: str) -> BrokerUrl:
    """Return the parsed URL of a broker, or of several nodes, separated by semicolons.

    Args:
        text: such as "sqlite:///var/broker.db" or "amqp://user:password@host:5672/shop".

    Raises:
        UrlError: the text is not a broker's URL; the error has no part of it except the scheme.
    """
    written = NEXT_NODE.split(text)
    schemes = [scheme_of(each, BROKER_SCHEMES) for each in written]
    if SQLITE not in schemes:
        return BrokerUrl(text, nodes=tuple(map(_node, written)))
    if len(written) > 1:
        refuse(
            "the URL of one SQLite file, or the URLs of the nodes of one RabbitMQ cluster",
            "both kinds of URLs",
        )
    return BrokerUrl(text, file=file_of(text))


def _node(text: str) -> Node:
    parts = split(text, BROKER_SCHEMES)
    # A semicolon after the login would be part of the host or the virtual host. Probably, the next
    # node was written without its scheme.
    if ";" in parts.public.partition("://")[2].rpartition("@")[2]:
        refuse("a whole URL after each ';' (%3B within a name)", shown(parts.scheme))
    encrypted = parts.scheme == "amqps"
    refuse_unknown_options(parts.options, ("heartbeat", *TLS_OPTIONS))
    return Node(
        public=parts.public,
        host=parts.host,
        port=parts.port or (AMQPS_PORT if encrypted else AMQP_PORT),
        user=parts.user or GUEST,
        password=parts.password or GUEST,
        virtual_host=parts.path[1:] or "/",
        heartbeat_seconds=_heartbeat(parts.options.get("heartbeat")),
        tls=tls_of(parts.scheme, parts.options, encrypted=encrypted),
    )


def _heartbeat(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        refuse("heartbeat=SECONDS with more than 0 seconds", "a different value of heartbeat")
    return seconds
