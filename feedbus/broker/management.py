"""Read RabbitMQ's management API: the only place that lists what a broker has."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from feedbus.errors import UsageError
from feedbus.topology import Topology

PORT = 15672
TIMEOUT_SECONDS = 10.0
UNAUTHORISED = 401


@dataclass(frozen=True, slots=True)
class Api:
    """Where the API answers, to whom, and for which virtual host."""

    url: str
    user: str
    password: str
    virtual_host: str

    @classmethod
    def of(cls, topology: Topology) -> list[Self]:
        """Find the APIs of a topology's broker: the one it says, else one on each node's host."""
        found = []
        for broker in map(urlsplit, topology.broker_urls):
            told = urlsplit(topology.management_url or f"http://{_host(broker.hostname)}:{PORT}")
            place = told.netloc.rpartition("@")[2]
            speaker = told if told.username is not None else broker
            found.append(
                cls(
                    urlunsplit((told.scheme, place, told.path.rstrip("/"), "", "")),
                    unquote(speaker.username or "guest"),
                    unquote(speaker.password or "guest"),
                    unquote(broker.path[1:]) or "/",
                )
            )
        return found

    def list(self, kind: str) -> list[dict[str, Any]]:
        """Return every exchange, queue or binding of the virtual host.

        Raises:
            UsageError: the API does not answer, or refuses; it says what to set.

        """
        token = b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 -- http or https, as the topology's check says
            f"{self.url}/api/{kind}/{quote(self.virtual_host, safe='')}",
            headers={"Authorization": f"Basic {token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 -- the same
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == UNAUTHORISED:
                hint = (
                    f"it does not know '{self.user}' with this password; put one that has the tag"
                    f" 'monitoring' or 'management' into [broker] management:"
                    f" http://USER:PASSWORD@{urlsplit(self.url).netloc}"
                )
            else:
                hint = f"HTTP {error.code} for {kind} of '{self.virtual_host}'"
            raise UsageError(self._told(hint)) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            hint = (
                f"{reason}; enable the plugin (rabbitmq-plugins enable rabbitmq_management), or say"
                f' where it is: [broker] management = "http://HOST:{PORT}"'
            )
            raise UsageError(self._told(hint)) from None
        return list(found)

    def _told(self, hint: str) -> str:
        return f"RabbitMQ's management API at {self.url} does not tell what is there: {hint}"


def listed(topology: Topology, kind: str) -> list[dict[str, Any]]:
    """Return every exchange, queue or binding, as the first node tells whose API answers.

    Raises:
        UsageError: none answers; it says what to set.

    """
    *others, last = Api.of(topology)
    for api in others:
        with contextlib.suppress(UsageError):
            return api.list(kind)
    return last.list(kind)


def _host(name: str | None) -> str:
    name = name or "localhost"
    return f"[{name}]" if ":" in name else name
