"""Free ports on loopback for the servers of tests, which no other process of the tests gets."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below the ports that Linux gives to outgoing connections (net.ipv4.ip_local_port_range). Otherwise
# a connection could get the port before its server listens on it.
PORTS = range(10_000, 32_000)

_locks: list[int] = []  # descriptors of locked files; this process keeps the locks until it ends


def free_port() -> int:
    """Return a port that nothing listens on; only this process gets it until the process ends.

    Several workers of one test run start servers at the same time. Without the lock, two of them
    could get the same port: a server listens on its port only some seconds later.
    """
    folder = Path(tempfile.gettempdir()) / f"feedbus-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    chosen = random.SystemRandom()
    while True:
        port = chosen.choice(PORTS)
        lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:  # another process has the lock or the port
            os.close(lock)
            continue
        _locks.append(lock)
        return port
