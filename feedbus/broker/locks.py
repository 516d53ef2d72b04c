"""Locks on files and on the broker, which are released when their holder dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from feedbus.broker.outages import connection_errors
from feedbus.clock import Clock
from feedbus.errors import UsageError
from feedbus.process import file_locks
from feedbus.wire.amqp_protocols import Connection

WAIT_SECONDS = 10.0  # the default time limit for the lock of a topology
QUEUE_POLL_SECONDS = 0.1  # between two attempts to declare the exclusive queue


@contextlib.contextmanager
def hold_file(path: Path, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock on a file during a `with` block; create the file if it is missing.

    Args:
        path: the path of the lock file.
        timeout_seconds: how long to wait while another process holds the lock.

    Raises:
        UsageError: another process holds the lock for longer than timeout_seconds.
    """
    with file_locks.locked(path, timeout_seconds) as acquired:
        if not acquired:
            msg = f"{path} is locked by another process; wait until it has ended, or stop it"
            raise UsageError(msg)
        yield


@contextlib.contextmanager
def hold_queue(
    connection: Connection, name: str, clock: Clock, wait_seconds: float
) -> Iterator[None]:
    """Hold a lock on the broker during a `with` block: a queue that only one connection can have.

    Args:
        connection: the connection that gets the lock.
        name: the name of the queue.
        clock: the clock by which the function waits.
        wait_seconds: how long to try again if another connection has the queue.

    Raises:
        UsageError: another connection holds the lock for longer than wait_seconds.

    """
    from amqp.exceptions import ResourceLocked

    deadline = clock.monotonic() + wait_seconds
    while True:
        channel = connection.channel()
        try:
            channel.queue_declare(name, exclusive=True, auto_delete=True, durable=False)
            break
        except ResourceLocked as error:
            channel.close()  # after the error, py-amqp has opened the channel again
            if clock.monotonic() >= deadline:
                msg = (
                    f"another `feedbus apply` or `feedbus up` is running (it has locked {name} on"
                    " the broker); wait until it has ended, or stop it"
                )
                raise UsageError(msg) from error
            clock.sleep(QUEUE_POLL_SECONDS)
    try:
        yield
    finally:
        # If the connection is lost, the broker deletes the queue, which releases the lock. So an
        # error of the connection is ignored here. The next use of the connection raises it again.
        with contextlib.suppress(*connection_errors(connection)):
            channel.queue_delete(name)
            channel.close()
