"""The TLS options in the URL of a broker or of its management API."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from feedbus.urls.parsing import absolute, refuse

TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_server_name",
    "ssl_verify",
)
VERIFIED = {"full": True, "none": False}


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS options: how to verify a server, and the certificate that is sent to it.

    Attributes:
        ca_certs: a PEM file of the trusted authorities; None for the authorities of the system.
        certfile: a PEM file of the client certificate; None if there is none.
        keyfile: a PEM file of the client certificate's key; None if certfile also has the key.
        server_name: the name that the server's certificate must have; "" for the host of the URL.
        verified: whether the server's certificate and its name are verified at all.

    """

    ca_certs: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    server_name: str = ""
    verified: bool = True

    @classmethod
    def of(cls, options: dict[str, str]) -> Self:
        """Return the TLS options among all options of a URL.

        Args:
            options: the pairs NAME=VALUE after the question mark; those of TLS begin with "ssl_".

        Raises:
            UrlError: the options contradict each other, or a value is empty or unknown.
        """
        for name in TLS_OPTIONS:
            if options.get(name) == "":
                refuse(f"a value for {name}", "nothing")
        verify = options.get("ssl_verify", "full")
        if verify not in VERIFIED:
            refuse("ssl_verify=full or ssl_verify=none", "a different value of ssl_verify")
        if "ssl_keyfile" in options and "ssl_certfile" not in options:
            refuse("both ssl_certfile and ssl_keyfile", "ssl_keyfile alone")

        def file(name: str) -> Path | None:
            return Path(options[name]) if name in options else None

        return cls(
            ca_certs=file("ssl_ca_certs"),
            certfile=file("ssl_certfile"),
            keyfile=file("ssl_keyfile"),
            server_name=options.get("ssl_server_name", ""),
            verified=VERIFIED[verify],
        )

    def within(self, root: Path) -> Self:
        """Return the same options with absolute paths in place of relative ones.

        Args:
            root: the folder at which relative paths begin.

        """

        def absolute_or_none(path: Path | None) -> Path | None:
            return None if path is None else absolute(path, root)

        return replace(
            self,
            ca_certs=absolute_or_none(self.ca_certs),
            certfile=absolute_or_none(self.certfile),
            keyfile=absolute_or_none(self.keyfile),
        )


def tls_of(scheme: str, options: dict[str, str], *, encrypted: bool) -> Tls | None:
    """Return the TLS options of a URL, or None for a URL without encryption.

    Args:
        scheme: the scheme of the URL, for the error.
        options: all options of the URL.
        encrypted: whether the scheme uses TLS.

    Raises:
        UrlError: there are TLS options, but the scheme has no encryption.

    """
    if encrypted:
        return Tls.of(options)
    for name in TLS_OPTIONS:
        if name in options:
            secure = "https" if scheme == "http" else "amqps"
            refuse(f"{secure}:// for {name}", f"{scheme}://")
    return None
