"""Expire messages and unused queues when they are due."""

from __future__ import annotations

from feedbus.transports.sqlite.queued_messages import (
    enforce_limits,
    expire_head,
    head_expiry,
    schedule_expiry,
)
from feedbus.transports.sqlite.queues import delete_queue
from feedbus.transports.sqlite.routing import Queue, load_routes
from feedbus.transports.sqlite.transactions import Transaction


def expire_due(tx: Transaction) -> None:
    """Expire the messages and unused queues that are due, and set the time of the next check.

    Each write transaction calls it first. It does nothing before the time of the next check.
    """
    if tx.armed_ms is None or tx.armed_ms > tx.now_ms:
        return  # nothing is due, or another connection was faster
    for queue in tx.routes.queues.values():
        # A queue with consumers is in use. unused_until() returns None for it.
        if queue.expires_ms is not None and (unused_until(tx, queue) or tx.now_ms + 1) <= tx.now_ms:
            delete_queue(tx, queue)
        elif queue.may_have_ttl:
            expire_head(tx, queue)
    enforce_limits(tx)
    everyone, tx.armed_ms = tx.everyone, None
    for queue in tx.routes.queues.values():
        if queue.may_have_ttl:
            schedule_expiry(tx, head_expiry(tx, queue.id))
        if queue.expires_ms is not None:
            schedule_expiry(tx, unused_until(tx, queue))
    if tx.topology_changed:  # the rest of the transaction must not use deleted queues
        tx.routes = load_routes(tx.database, version=-1)
    # schedule_expiry() may have set tx.everyone. But the other connections need no wake-up: they
    # wait until the old time, and then read the new time.
    tx.everyone = everyone


def unused_until(tx: Transaction, queue: Queue) -> int | None:
    """Return when a queue with x-expires is deleted, if it is not used before.

    The time is in milliseconds of the broker's time. It is None if the queue has consumers: the
    queue is then in use.
    """
    row = tx.execute(
        "SELECT used_ms FROM queues WHERE id = ?"
        " AND NOT EXISTS (SELECT 1 FROM consumers WHERE queue = queues.id)",
        (queue.id,),
    ).fetchone()
    return row[0] + (queue.expires_ms or 0) if row else None
