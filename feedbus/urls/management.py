"""The URL of RabbitMQ's management API."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from feedbus.urls.broker import BrokerUrl, Node
from feedbus.urls.parsing import address, refuse_unknown_options, split
from feedbus.urls.tls import TLS_OPTIONS, Tls, tls_of

MANAGEMENT_SCHEMES = ("http", "https")
HTTP_PORT = 80
HTTPS_PORT = 443
MANAGEMENT_PORT = 15672
MANAGEMENT_TLS_PORT = 15671


@dataclass(frozen=True, slots=True)
class ManagementUrl:
    """The address of the management API, and the user that logs in there.

    Attributes:
        scheme: "http" or "https".
        host: the name or the address of the host.
        port: the port.
        path: the path in front of the paths of the API; "" for none.
        user: the user; "" if for_node() takes the user and the password of the broker's node.
        password: the password of the user.
        tls: the options of TLS; None for http.

    """

    scheme: str
    host: str
    port: int
    path: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None

    def within(self, root: Path) -> Self:
        """Return the same URL with absolute paths of certificates in place of relative ones.

        Args:
            root: the folder at which relative paths begin.

        """
        return replace(self, tls=self.tls and self.tls.within(root))

    def clear_text_to_others(self) -> bool:
        """Whether the password would be sent unencrypted: the URL is http to another host.

        `feedbus check` refuses such a URL if the broker's own URL uses TLS.
        """
        return self.tls is None and not _loopback(self.host)

    def for_node(self, node: Node) -> Self:
        """Return this URL, completed with values from the URL of a node.

        If this URL has no user, the user and the password of the node are taken. If both URLs use
        TLS, the files of certificates that this URL does not name are taken from the node, too.

        Args:
            node: the node of the broker on which the API is used.
        """
        filled = self if self.user else replace(self, user=node.user, password=node.password)
        if self.tls is None or node.tls is None:
            return filled
        return replace(
            filled,
            tls=replace(
                self.tls,
                ca_certs=self.tls.ca_certs or node.tls.ca_certs,
                certfile=self.tls.certfile or node.tls.certfile,
                # A key belongs to a certificate, so both come from the same URL.
                keyfile=self.tls.keyfile if self.tls.certfile else node.tls.keyfile,
            ),
        )

    def __str__(self) -> str:
        """Return the URL without user, password and options."""
        usual = HTTP_PORT if self.tls is None else HTTPS_PORT
        port = "" if self.port == usual else f":{self.port}"
        return f"{self.scheme}://{address(self.host)}{port}{self.path}"


def parse_management_url(text: str) -> ManagementUrl:
    """Return the parsed URL of a management API.

    Args:
        text: such as "http://user:password@host:15672".

    Raises:
        UrlError: the text is not such a URL; the error has no part of it except the scheme.
    """
    parts = split(text, MANAGEMENT_SCHEMES)
    encrypted = parts.scheme == "https"
    refuse_unknown_options(parts.options, TLS_OPTIONS)
    return ManagementUrl(
        scheme=parts.scheme,
        host=parts.host,
        port=parts.port or (HTTPS_PORT if encrypted else HTTP_PORT),
        path=parts.path.rstrip("/"),
        user=parts.user,
        password=parts.password,
        tls=tls_of(parts.scheme, parts.options, encrypted=encrypted),
    )


def management_of(
    broker: BrokerUrl, configured: ManagementUrl | None
) -> list[tuple[ManagementUrl, Node]]:
    """Return pairs for the nodes of the broker: the URL of the management API, and the node.

    The configured URL is used for every node; for_node() completes it. If no URL is configured, the
    host, the user and the password are those of the node. If the node's URL uses TLS, the API's URL
    uses TLS with the same options.

    Args:
        broker: the URL of the broker.
        configured: the option `management` of [broker]; None if it is not set.

    """
    found = []
    for node in broker.nodes:
        scheme, port = (
            ("http", MANAGEMENT_PORT) if node.tls is None else ("https", MANAGEMENT_TLS_PORT)
        )
        own = ManagementUrl(
            scheme, node.host, port, user=node.user, password=node.password, tls=node.tls
        )
        found.append((configured.for_node(node) if configured else own, node))
    return found


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
