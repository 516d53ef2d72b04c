"""The kinds of value that only one option has: URLs, commands, keys, arguments."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from feedbus.config.faults import LONG_BITS, describe, nearest
from feedbus.config.fields import Option, Text

PASSWORD = re.compile(r"(?<=://)([^:/@]*):.*@")
LONGEST_KEY_BYTES = 255


class Url(Text):
    """Where a broker or a store is."""

    kind = "URL"

    def __init__(self, description: str, *schemes: str, **told: Any) -> None:
        """Keep the schemes that are spoken."""
        super().__init__(description, **told)
        self.schemes = schemes
        self.expected = (
            f"a URL that begins with {'://, '.join(schemes[:-1])}:// or {schemes[-1]}://"
        )

    def read(self, value: Any) -> str:
        """Return the URL as it is written."""
        if not isinstance(value, str):
            self.refuse()
        got = describe(PASSWORD.sub(r"\1:…@", value))
        scheme, separator, rest = value.partition("://")
        if scheme not in self.schemes or not separator:
            suggestion = nearest(scheme, self.schemes) if scheme else ""
            self.refuse(got=got, suggestion=f"{suggestion}://" if suggestion else "")
        if "\0" in value or any(sign.isspace() for sign in value if scheme != "sqlite"):
            self.refuse("a URL without blanks", got=got)
        if scheme == "sqlite":
            if (
                not rest.startswith("/")
                or rest.strip("/") in {"", ":memory:"}
                or rest.endswith("/")
            ):
                self.refuse(
                    "a file: sqlite:///relative/to/this.db or sqlite:////absolute.db", got=got
                )
            if "?" in rest or "#" in rest:
                self.refuse("a file without '?' and '#'", got=got)
            return value
        if not _splits(value):
            self.refuse(f"{scheme}://USER:PASSWORD@HOST:PORT/NAME", got=got)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "pattern": rf"^({'|'.join(self.schemes)})://|\$\{{"}


class BrokerUrl(Url):
    """Where a broker is: one URL, or one for each node of a cluster, apart by semicolons."""

    def read(self, value: Any) -> str:
        """Return the URLs as they are written."""
        if not isinstance(value, str) or value.startswith("sqlite:"):
            return super().read(value)
        nodes = [super(BrokerUrl, self).read(node) for node in value.split(";")]
        if any(node.startswith("sqlite:") for node in nodes):
            self.refuse("one file, or the nodes of one cluster", got=describe(value))
        for node in nodes:
            for name, text in parse_qsl(urlsplit(node).query, keep_blank_values=True):
                if name == "heartbeat" and not _positive(text):
                    self.refuse("heartbeat=SECONDS", got=describe(f"{name}={text}"))
                elif name != "heartbeat" and not name.startswith("ssl_"):
                    self.refuse("heartbeat or ssl_… after '?'", got=describe(name))
        return value


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _splits(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


class Command(Option):
    """A command line, split as a shell would, or an array of its words."""

    kind = "text or array of texts"
    expected = 'a command such as "python -m web" or an array of its words'

    def read(self, value: Any) -> tuple[str, ...]:
        """Return the words."""
        if isinstance(value, str):
            try:
                words = shlex.split(value)
            except ValueError as error:
                self.refuse(f"{self.expected} ({str(error).lower()})")
        elif isinstance(value, list) and all(isinstance(word, str) for word in value):
            words = value
        else:
            self.refuse()
        if not words or not words[0] or any("\0" in word for word in words):
            self.refuse()
        return tuple(words)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        words = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        return {"anyOf": [{"type": "string", "minLength": 1}, words]}


class RoutingKey(Option):
    """A binding key: up to 255 bytes, and the empty text is one too."""

    kind = "text"
    expected = f"a routing key of at most {LONGEST_KEY_BYTES} bytes"

    def read(self, value: Any) -> str:
        """Return the key."""
        if not isinstance(value, str) or len(value.encode()) > LONGEST_KEY_BYTES:
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string"}


class Argument(Option):
    """A broker's own argument: whatever it takes, as long as AMQP can carry it."""

    kind = "argument"
    expected = "a text, an integer, a number, true or false"

    def read(self, value: Any) -> Any:
        """Return the value."""
        if not isinstance(value, str | int | float) or (
            isinstance(value, int) and value.bit_length() > LONG_BITS
        ):
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": ["string", "integer", "number", "boolean"]}


class ArgumentName(Text):
    """What a broker's argument is called."""

    kind = "text"
    expected = "an argument's name"


class Setting(Option):
    """The value of an environment variable, which may be empty."""

    kind = "text"
    expected = "a text"

    def read(self, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str) or "\0" in value:
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string"}


class EnvironmentName(Text):
    """What an environment variable is called."""

    expected = "a variable's name of letters, digits and '_'"
    pattern = "[A-Za-z_][A-Za-z0-9_]*"

    def read(self, value: Any) -> str:
        """Return the name."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        return value


class ShardNumber(Text):
    """A shard's number, as TOML writes keys: a text of digits."""

    expected = "the number of a shard"
    pattern = "0|[1-9][0-9]{0,4}"

    def read(self, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        return value
