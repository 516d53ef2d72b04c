"""Connections that own deliveries (*owners*), registered in the file until they close or die."""

from __future__ import annotations

import os

from feedbus.transports.sqlite.backend_interfaces import Liveness
from feedbus.transports.sqlite.liveness import process_namespace
from feedbus.transports.sqlite.queued_messages import put_back
from feedbus.transports.sqlite.queues import delete_queue, touch
from feedbus.transports.sqlite.transactions import Transaction


def register(tx: Transaction) -> int:
    """Register a new owner of deliveries: a connection of this process; return its id.

    No other connection ever gets the same id.
    """
    (connection_id,) = tx.execute(
        "INSERT INTO owners (pid, namespace) VALUES (?,?) RETURNING id",
        (os.getpid(), process_namespace()),
    ).fetchone()
    tx.owners_changed = tx.everyone = True  # other connections must watch this process from now on
    return int(connection_id)


def is_registered(tx: Transaction, connection_id: int) -> bool:
    """Return whether a connection is still registered; False if another one removed it as dead."""
    return tx.execute("SELECT 1 FROM owners WHERE id = ?", (connection_id,)).fetchone() is not None


def remove_dead(tx: Transaction, liveness: Liveness, own: int | None) -> None:
    """Remove each connection that is closed or whose process has died; requeue its deliveries.

    Args:
        tx: the transaction.
        liveness: checks whether a connection is live.
        own: the id of this connection, which is never removed; None if it has no id yet.

    """
    for (connection_id,) in tx.execute("SELECT id FROM owners").fetchall():
        if connection_id != own and not liveness.is_live(connection_id):
            remove(tx, connection_id)
            liveness.sweep(connection_id)


def remove(tx: Transaction, connection_id: int) -> None:
    """Unregister a connection, because it closes or its process has died.

    Its unsettled deliveries return to their queues. Its consumers end. Its exclusive queues are
    deleted.

    Args:
        tx: the transaction.
        connection_id: the id of the connection.
    """
    put_back(tx, connection_id)
    rows = tx.execute("SELECT id FROM consumers WHERE owner = ?", (connection_id,)).fetchall()
    for (consumer,) in rows:
        end_consumer(tx, consumer)
    for queue in tx.routes.queues.values():
        if queue.exclusive and queue.owner_id == connection_id:
            delete_queue(tx, queue)
    tx.execute("DELETE FROM owners WHERE id = ?", (connection_id,))
    tx.owners_changed = True


def end_consumer(tx: Transaction, consumer_id: int) -> None:
    """End a consumer; wake the other consumers of the queue, so that they claim its messages.

    If the queue has no other consumer, an auto-delete queue is deleted.

    Args:
        tx: the transaction.
        consumer_id: the id of the consumer.
    """
    row = tx.execute(
        "DELETE FROM consumers WHERE id = ? RETURNING queue", (consumer_id,)
    ).fetchone()
    tx.owners_changed = True
    queue = tx.routes.queues_by_id.get(row[0]) if row else None
    if queue is None:
        return
    another_consumer = tx.execute(
        "SELECT 1 FROM consumers WHERE queue = ? LIMIT 1", (queue.id,)
    ).fetchone()
    if another_consumer:
        tx.queues_with_new_messages[queue.id] = queue
    elif queue.auto_delete:
        delete_queue(tx, queue)
    else:
        touch(tx, queue)
