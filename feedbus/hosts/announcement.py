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
        host: the id of the host: the machine's name and the folder `var`. A restart does not change
            the id.
        since: when the host began to announce itself, in seconds since 1970.
        ready_consumers: maps each queue to the consumers whose processes are ready on this host.
        assignment: maps each consumer to its host, as this host knows it; None before this host
            knows an assignment.
        file_digest: a digest of the content of the topology's file.
        queue: the name of the host's exclusive queue on the broker. The name shows that the
            announcement comes from a host: other programs cannot declare this queue or guess its
            name.

    """

    host: str
    since: float
    ready_consumers: Mapping[str, tuple[str, ...]]
    assignment: Mapping[str, str] | None
    file_digest: str = ""
    queue: str = ""

    def encode(self) -> bytes:
        """Return the body of the message that announces the host, as JSON."""
        return json.dumps(
            {
                "host": self.host,
                "since": self.since,
                "able": {
                    queue: list(consumers) for queue, consumers in self.ready_consumers.items()
                },
                "assignment": None if self.assignment is None else dict(self.assignment),
                "file": self.file_digest,
                "queue": self.queue,
            }
        ).encode()


def decode(body: bytes | str) -> Announcement | None:
    """Return the announcement in the body of a received message; None if the body contains none.

    Args:
        body: the JSON text that Announcement.encode() has returned, or the body of another program.

    """
    try:
        content: Any = json.loads(body)
        assignment = content["assignment"]
        return Announcement(
            host=str(content["host"]),
            since=float(content["since"]),
            ready_consumers={
                str(queue): tuple(map(str, consumers))
                for queue, consumers in content["able"].items()
            },
            assignment=None
            if assignment is None
            else {str(consumer): str(host) for consumer, host in assignment.items()},
            file_digest=str(content["file"]),
            queue=str(content["queue"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
