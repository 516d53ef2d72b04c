"""Parse URLs strictly, so that no part of a password is read as a host or a path."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote

from feedbus.errors import UsageError

SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,19}")
NAMED_HOST = re.compile(r"[\w.~-]*")
IPV6_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
OPTION_NAME = re.compile(r"[a-z_]{1,40}")
HIGHEST_PORT = 65_535
SQLITE = "sqlite"
HIDDEN = "***"  # replaces a password in the printed URL


class UrlError(UsageError):
    """A text is not the expected URL; the error contains no part of the text except its scheme.

    So a password in the text is never printed.

    Attributes:
        expected: what was expected.
        got: what was found, without secrets.
        name: an unknown name, which may be misspelt; "" for none.
        known: the names that are allowed instead.
    """

    def __init__(
        self, expected: str, got: str, *, name: str = "", known: Sequence[str] = ()
    ) -> None:
        """Create the error; the arguments are the values of the attributes."""
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got, self.name, self.known = expected, got, name, tuple(known)


def refuse(expected: str, got: str, *, name: str = "", known: Sequence[str] = ()) -> NoReturn:
    """Raise a UrlError: each function that parses URLs calls it.

    Args:
        expected: what was expected.
        got: what was found, without secrets.
        name: an unknown name, which may be misspelt; "" for none.
        known: the names that are allowed instead.
    """
    raise UrlError(expected, got, name=name, known=known)


@dataclass(frozen=True, slots=True)
class Parts:
    """The decoded parts of a URL.

    Attributes:
        scheme: the text before "://".
        host: the name or the address of the host.
        port: the port; None if the URL has none.
        user: the user; "" if the URL has none.
        password: the password; "" if the URL has none.
        path: the path: "", or a text that begins with a slash.
        options: the pairs NAME=VALUE after the question mark.
        public: the URL without its password and options, to be printed.
    """

    scheme: str
    host: str
    port: int | None
    user: str
    password: str = field(repr=False)
    path: str
    options: dict[str, str]
    public: str


def scheme_of(text: str, schemes: Sequence[str]) -> str:
    """Return the scheme of a URL: the text before "://".

    Args:
        text: the URL.
        schemes: the possible schemes.

    Raises:
        UrlError: the scheme is not one of `schemes`, or the text has spaces or control characters.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in schemes:
        listed = f"{'://, '.join(schemes[:-1])}:// or {schemes[-1]}://"
        # Any other text in front of "://" may contain a password, so an error must not show it.
        is_scheme = bool(separator) and SCHEME.fullmatch(scheme)
        refuse(
            f"a URL that begins with {listed}",
            f"'{scheme}://…'" if is_scheme else "a text with another beginning",
            name=scheme if is_scheme else "",
            known=schemes,
        )
    if not rest.isprintable() or (scheme != SQLITE and " " in rest):
        refuse("a URL without spaces and control characters", shown(scheme))
    return scheme


def shown(scheme: str) -> str:
    """Return 'SCHEME://…', which an error shows instead of a URL with a password."""
    return f"'{scheme}://…'"


def split(text: str, schemes: Sequence[str]) -> Parts:
    """Return the parts of a URL of one of the schemes.

    Args:
        text: the URL.
        schemes: the possible schemes.

    Raises:
        UrlError: the text is not a well-formed URL. Within a part, a character that separates parts
            must be written as %XX. For example, a '/' in a password would end the host.
    """
    scheme = scheme_of(text, schemes)
    rest = text.partition("://")[2]
    check_escapes(scheme, rest)
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    if "#" in rest or "@" in behind or authority.count("@") > 1:
        refuse(
            "%2F, %3F, %23 and %40 for '/', '?', '#' and '@' in a user, a password or a name",
            shown(scheme),
        )
    login, at, host_and_port = authority.rpartition("@")
    user, colon, password = login.partition(":")
    host, port = _host_and_port(scheme, host_and_port)
    path, _, query = behind.partition("?")
    return Parts(
        scheme=scheme,
        host=host,
        port=port,
        user=decode(scheme, user),
        password=decode(scheme, password),
        path=decode(scheme, path),
        options=_options(scheme, query),
        public=f"{scheme}://{user}{f':{HIDDEN}' if colon else ''}{at}{host_and_port}{path}",
    )


def check_escapes(scheme: str, text: str) -> None:
    """Raise UrlError if a part of a URL has a percent sign without two hexadecimal digits.

    Args:
        scheme: the scheme of the URL, for the error.
        text: the part.

    """
    if LONE_PERCENT.search(text):
        refuse("two hexadecimal digits after each '%' (%25 is a percent sign)", shown(scheme))


def decode(scheme: str, text: str) -> str:
    """Return a part of a URL without its %XX escapes.

    Args:
        scheme: the scheme of the URL, for the error.
        text: the part.

    Raises:
        UrlError: the result is not UTF-8, or contains a NUL character.
    """
    decoded = unquote(text, errors="replace")
    if "\0" in decoded or "\ufffd" in decoded:
        refuse("a URL whose %XX characters are valid UTF-8, without %00", shown(scheme))
    return decoded


def _host_and_port(scheme: str, text: str) -> tuple[str, int | None]:
    """Return the host, localhost by default, and the port in a text such as "[::1]:5672"."""
    bracketed, _, port = text.rpartition("]")
    host = f"{bracketed}]" if bracketed else text.partition(":")[0]
    if not bracketed:
        port = text[len(host) :]
    named, numbered = NAMED_HOST.fullmatch(host), IPV6_HOST.fullmatch(host)
    if not (named or numbered):
        refuse("the name or the address of one host", shown(scheme))
    host = numbered[1].lower() if numbered else host or "localhost"
    if port in {"", ":"}:
        return host, None
    digits = port[1:]
    is_number = port[0] == ":" and digits.isascii() and digits.isdecimal() and len(digits) < 6  # noqa: PLR2004 -- 65535 has five digits
    if not (is_number and 0 < int(digits) <= HIGHEST_PORT):
        refuse(f"a port from 1 to {HIGHEST_PORT} after the host", shown(scheme))
    return host, int(digits)


def _options(scheme: str, query: str) -> dict[str, str]:
    """Return the decoded options of a URL; `query` is the text after the question mark."""
    found: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, separator, value = pair.partition("=")
        if not (separator and OPTION_NAME.fullmatch(name)):
            refuse("NAME=VALUE after '?' and '&'", shown(scheme))
        if name in found:
            refuse(f"{name} once", "it twice")
        found[name] = decode(scheme, value)
    return found


def refuse_unknown_options(options: dict[str, str], known: Sequence[str]) -> None:
    """Raise UrlError if a URL has an option, NAME=VALUE after the question mark, that is not known.

    Args:
        options: the options of the URL.
        known: the names of the known options.
    """
    for name in options:
        if name not in known:
            listed = f"{', '.join(known[:-1])} or {known[-1]}"
            refuse(f"{listed} after '?'", f"'{name}'", name=name, known=known)


def address(host: str) -> str:
    """Return a host as a URL contains it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def file_of(text: str) -> Path:
    """Return the file of an sqlite URL: relative after three slashes, absolute after four.

    Args:
        text: the URL, such as "sqlite:////var/lib/app/broker.db".

    Raises:
        UrlError: the URL names no file.
    """
    rest = text.removeprefix(f"{SQLITE}://")
    name = rest.removeprefix("/")
    if not rest.startswith("/") or name.strip("/") in {"", ":memory:"} or name.endswith("/"):
        refuse("a file: sqlite:///relative/to/this.db or sqlite:////absolute.db", shown(SQLITE))
    if "?" in rest or "#" in rest:
        refuse("a file without '?' and '#'", shown(SQLITE))
    return Path(name)


def absolute(path: Path, root: Path) -> Path:
    """Return a path as an absolute path; symbolic links are kept.

    Args:
        path: the path; if it is relative, it is relative to the folder `root`.
        root: the folder.
    """
    return Path(os.path.abspath(root / path))  # noqa: PTH100 -- resolve() would follow links


def escaped(text: str) -> str:
    """Return a text as a part of a URL: each character with a meaning in URLs is written as %XX."""
    return quote(text, safe="")
