"""The topology file of a host: which host has it, and the digest and age of the file.

The state of a ring contains this information about the file that declared the ring. So feedbus can
refuse an older file of another host, which would change the ring back.
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from feedbus.config import APPLIED
from feedbus.topology import Topology


def host_id(topology: Topology) -> str:
    """Return the id of this host: the machine's name and the folder `var`, joined by a colon."""
    return f"{socket.gethostname()}:{topology.var}"


def digest_in_use(topology: Topology) -> str:
    """Return a digest of the topology file that this process uses, or "" if there is no file.

    A process that the supervisor has started uses the supervisor's copy of the file.
    """
    applied = os.environ.get(APPLIED)
    try:
        return _digest(Path(applied).read_bytes() if applied else topology.path.read_bytes())
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class TopologyFile:
    """Identifies a topology file: its host, its path, its digest and its age.

    The state of a ring contains the TopologyFile of the file that declared the ring.

    Attributes:
        host: the id of the host.
        path: where the file is on that host.
        digest: a digest of the content of the file.
        modified: when it was changed last, in seconds since 1970, by the host's clock.

    """

    host: str
    path: str
    digest: str
    modified: float

    @classmethod
    def of(cls, topology: Topology) -> Self | None:
        """Return the file of a topology, or None if the topology has no file, as in a test."""
        try:
            content, status = topology.path.read_bytes(), topology.path.stat()
        except OSError:
            return None
        return cls(host_id(topology), str(topology.path), _digest(content), status.st_mtime)

    def __str__(self) -> str:
        """Return the path, the host and the time of the last change, as text for the operator."""
        modified = datetime.fromtimestamp(self.modified, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.path} of host {self.host}, modified {modified}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
