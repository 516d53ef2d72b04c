"""The announcement that a host sends to the other hosts of its project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a host announces to the other hosts of its project each second.

    Attributes:
        host: the id of the host, which a restart does not change: the machine's name and the folder
            of state.
        since: when the host began to announce itself, in seconds since 1970.
        able: for each queue, the consumers whose processes are ready on this host.
        assignment: the host of each consumer, as this host knows it; None before it knows it.
        file: a digest of the content of the topology's file.
        queue: the host's own queue on the broker, which shows that the announcement comes from a
            host: no other program can declare this queue or guess its name.

    """

    host: str
    since: float
    able: Mapping[str, tuple[str, ...]]
    assignment: Mapping[str, str] | None
    file: str = ""
    queue: str = ""

    def encode(self) -> bytes:
        """Return the body of the message."""
        return json.dumps(
            {
                "host": self.host,
                "since": self.since,
                "able": {queue: list(consumers) for queue, consumers in self.able.items()},
                "assignment": None if self.assignment is None else dict(self.assignment),
                "file": self.file,
                "queue": self.queue,
            }
        ).encode()


def decode(body: bytes | str) -> Announcement | None:
    """Return the announcement in the body of a message; None if the body contains none."""
    try:
        content: Any = json.loads(body)
        assignment = content["assignment"]
        return Announcement(
            host=str(content["host"]),
            since=float(content["since"]),
            able={
                str(queue): tuple(map(str, consumers))
                for queue, consumers in content["able"].items()
            },
            assignment=None
            if assignment is None
            else {str(consumer): str(host) for consumer, host in assignment.items()},
            file=str(content["file"]),
            queue=str(content["queue"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
