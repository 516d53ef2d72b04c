"""The URL of a store: a SQLite file, or a URL that PostgreSQL's libpq accepts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from feedbus.urls.parsing import (
    HIGHEST_PORT,
    SQLITE,
    UrlError,
    absolute,
    check_escapes,
    escaped,
    file_of,
    refuse,
    scheme_of,
    shown,
)

STORE_SCHEMES = (SQLITE, "postgresql", "postgres")
POSTGRES_HOST = re.compile(r"[\w.~:%/-]*")
# The options of libpq 15 to 17. They are used only to suggest a name for a misspelt option; libpq
# itself decides which options are valid.
LIBPQ_NAMES = (
    *("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "require_auth"),
    *("channel_binding", "connect_timeout", "client_encoding", "options", "application_name"),
    *("fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "tcp_user_timeout", "replication", "gssencmode", "sslmode"),
    *("sslnegotiation", "requiressl", "sslcompression", "sslcert", "sslkey", "sslpassword"),
    *("sslcertmode", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
    *("gssdelegation", "service", "target_session_attrs", "load_balance_hosts"),
)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The address of a store: a SQLite file, or a database of PostgreSQL.

    Attributes:
        written: the original URL, with its password; reveal() returns it.
        public: the URL without passwords and options.
        file: the SQLite file; None for PostgreSQL.
        parameters: maps the names of libpq's parameters to their values; empty for SQLite.

    """

    written: str = field(repr=False)
    public: str
    file: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def embedded(self) -> bool:
        """Whether the store is an SQLite file."""
        return self.file is not None

    def within(self, root: Path) -> Self:
        """Return the same URL with an absolute path in place of a relative one.

        Args:
            root: the folder at which a relative path begins.

        """
        if self.file is None:
            return self
        file = absolute(self.file, root)
        url = f"{SQLITE}:///{file}"
        return replace(self, written=url, public=url, file=file)

    def reveal(self) -> str:
        """Return the original URL, with its password; str() and repr() do not show it."""
        return self.written

    def __str__(self) -> str:
        """Return the URL without passwords and options."""
        return self.public


def parse_store_url(text: str) -> StoreUrl:
    """Return the parsed URL of a store.

    Args:
        text: such as "sqlite:///var/store.db" or "postgresql://user:password@host/shop".

    Raises:
        UrlError: the text is not a store's URL; the error has no part of it except the scheme.
    """
    scheme = scheme_of(text, STORE_SCHEMES)
    if scheme == SQLITE:
        return StoreUrl(text, text, file=file_of(text))
    rest = text.partition("://")[2]
    check_escapes(scheme, rest)
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    if (
        authority.count("@") > 1
        or "@" in path
        or (authority and "@" in query and "@" not in authority)
    ):
        refuse(
            "%2F, %3F and %40 for '/', '?' and '@' in a user, a password or a name",
            shown(scheme),
        )
    parameters = _libpq(text, scheme, query)
    _check_place(parameters, scheme)
    return StoreUrl(text, _public(parameters), parameters=MappingProxyType(parameters))


def _libpq(text: str, scheme: str, query: str) -> dict[str, str]:
    """Return libpq's parameters for a URL.

    Raises:
        UrlError: psycopg2 is not installed, or libpq refuses the URL. The text of the error has no
            part of the URL except the scheme.

    """
    try:
        import psycopg2
        from psycopg2.extensions import parse_dsn
    except ModuleNotFoundError:
        driver = f"the driver psycopg2 for {scheme}://; pip install 'feedbus[postgres]' installs it"
        raise UrlError(driver, "no module psycopg2") from None

    with contextlib.suppress(psycopg2.Error, ValueError):
        return dict(parse_dsn(text))
    names = [pair.partition("=")[0] for pair in query.split("&")]
    unknown = [name for name in names if name not in LIBPQ_NAMES]
    form = f"{scheme}://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE, as PostgreSQL's libpq reads it"
    raise UrlError(form, shown(scheme), name=unknown[0] if unknown else "", known=LIBPQ_NAMES)


def _check_place(parameters: Mapping[str, str], scheme: str) -> None:
    """Raise UrlError for invalid hosts and ports.

    If a password has an '@' or '/' that is not escaped, libpq reads a part of the password as a
    host or a port. When libpq then cannot connect, its error contains this part.
    """
    if not POSTGRES_HOST.fullmatch(parameters.get("host", "").replace(",", "")):
        refuse("the names or addresses of hosts, or a socket's folder", shown(scheme))
    for port in parameters.get("port", "").split(","):
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= HIGHEST_PORT):
            refuse(f"a port from 1 to {HIGHEST_PORT} after each host", shown(scheme))


def _public(parameters: Mapping[str, str]) -> str:
    """Return the URL that is printed: the user, the hosts, the ports and the database's name.

    For a service of libpq, it has only the name of the service. The password and all other
    parameters are left out.
    """
    if "service" in parameters and "host" not in parameters:
        return f"postgresql://?service={escaped(parameters['service'])}"
    user = f"{escaped(parameters['user'])}@" if "user" in parameters else ""
    hosts = parameters.get("host") or parameters.get("hostaddr", "")
    ports = parameters.get("port", "").split(",")
    places = []
    for index, host in enumerate(hosts.split(",")):
        port = ports[index] if len(ports) > 1 and index < len(ports) else ports[0]
        folder = host.startswith("/")
        place = escaped(host) if folder else f"[{host}]" if ":" in host else host
        places.append(f"{place}:{port}" if port else place)
    name = escaped(parameters.get("dbname", ""))
    return f"postgresql://{user}{','.join(places)}/{name}"
