"""Declare, find and delete queues, with the errors of RabbitMQ."""

from __future__ import annotations

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed, ResourceLocked

from feedbus.transports.sqlite.bindings import drop_bindings_to
from feedbus.transports.sqlite.equivalence import (
    DECLARE_QUEUE,
    Arguments,
    check_same,
    check_same_argument,
)
from feedbus.transports.sqlite.queue_arguments import check_arguments
from feedbus.transports.sqlite.queued_messages import purge, schedule_expiry
from feedbus.transports.sqlite.routing import QUEUE, Queue, make_queue
from feedbus.transports.sqlite.table_json import arguments_to_json, table_from_json
from feedbus.transports.sqlite.transactions import Transaction


def find_queue(
    tx: Transaction, name: str, connection_id: int | None, method: tuple[int, int] = DECLARE_QUEUE
) -> Queue:
    """Return a queue, or raise the error of RabbitMQ if it does not exist.

    Args:
        tx: the transaction.
        name: the queue.
        connection_id: the id of the connection that uses the queue; None if it has no id.
        method: the class id and method id of the AMQP method, for the error.

    Raises:
        NotFound: the queue does not exist.
        ResourceLocked: the queue is exclusive to another connection.
    """
    queue = tx.routes.queues.get(name)
    if queue is None:
        msg = f"NOT_FOUND - no queue '{name}' in vhost '/'"
        raise NotFound(msg, method)
    if queue.exclusive and queue.owner_id != connection_id:
        msg = (
            f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost"
            " '/'. It could be originally declared on another connection or the exclusive property"
            " value does not match that of the original declaration."
        )
        raise ResourceLocked(msg, method)
    return queue


def declare_queue(
    tx: Transaction,
    name: str,
    connection_id: int | None,
    *,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: Arguments,
) -> Queue:
    """Declare and return a queue; if an equal one exists, the declaration counts as a use of it.

    Args:
        tx: the transaction.
        name: the queue.
        connection_id: the id of the connection that declares the queue; None if it has no id.
        durable: stored, and compared when the queue is declared again.
        exclusive: whether only this connection may use the queue.
        auto_delete: whether the queue is deleted with its last consumer.
        arguments: the x-arguments.

    Raises:
        PreconditionFailed: the queue exists and differs, or an argument is invalid.
        ResourceLocked: the queue is exclusive to another connection.
        AccessRefused: the name of a new queue begins with "amq.", but not with "amq.gen-".
        AMQPNotImplementedError: RabbitMQ has this argument, but the embedded broker does not.
    """
    object_text = f"queue '{name}'"
    if name in tx.routes.queues:
        queue = find_queue(tx, name, connection_id)
        check_same(object_text, "durable", durable, queue.durable)
        check_same(object_text, "exclusive", exclusive, queue.exclusive)
        check_same(object_text, "auto_delete", auto_delete, queue.auto_delete)
        current = {"x-queue-type": "classic"} | dict(queue.arguments)
        # The arguments of the existing queue were stored as JSON, in which a time, for example,
        # loses its time zone. So the new arguments are converted in the same way.
        stored_form = table_from_json(arguments_to_json(arguments))
        received = {"x-queue-type": "classic"} | stored_form
        for key in sorted(current.keys() | received.keys()):
            check_same_argument(object_text, key, received, current, DECLARE_QUEUE)
    else:
        if name.startswith("amq.") and not name.startswith("amq.gen-"):
            msg = f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
            raise AccessRefused(msg, DECLARE_QUEUE)
        check_arguments(object_text, arguments, durable=durable, exclusive=exclusive)
        values = (
            name,
            durable,
            exclusive,
            auto_delete,
            arguments_to_json(arguments),
            connection_id if exclusive else None,
            "x-message-ttl" in arguments,
        )
        (queue_id,) = tx.execute(
            "INSERT INTO queues (name, durable, exclusive, auto_delete, arguments, owner,"
            " expiring, depth, used_ms) VALUES (?,?,?,?,?,?,?,0,0) RETURNING id",
            values,
        ).fetchone()
        queue = make_queue(queue_id, *values[:5], *values[5:])
        tx.topology_changed = True
    touch(tx, queue)
    return queue


def touch(tx: Transaction, queue: Queue) -> None:
    """Start the time of x-expires of a queue again, because the queue was used.

    A queue without x-expires does not change.
    """
    if queue.expires_ms is not None:
        tx.execute("UPDATE queues SET used_ms = ? WHERE id = ?", (tx.now_ms, queue.id))
        schedule_expiry(tx, tx.now_ms + queue.expires_ms)


def delete_queue(
    tx: Transaction, queue: Queue, *, if_unused: bool = False, if_empty: bool = False
) -> int:
    """Delete a queue, its bindings and messages; return how many messages were ready.

    Args:
        tx: the transaction.
        queue: the queue.
        if_unused: whether to refuse the deletion while the queue has consumers.
        if_empty: whether to refuse the deletion while the queue has ready messages.

    Raises:
        PreconditionFailed: if_unused is set, and the queue has consumers; or if_empty is set, and
            the queue has ready messages.
    """
    where = f"queue '{queue.name}' in vhost '/'"
    holders = tx.execute(
        "SELECT DISTINCT owner FROM consumers WHERE queue = ?", (queue.id,)
    ).fetchall()
    if if_unused and holders:
        msg = f"PRECONDITION_FAILED - {where} in use"
        raise PreconditionFailed(msg, (50, 40))
    if if_empty and tx.depth(queue.id):
        msg = f"PRECONDITION_FAILED - {where} not empty"
        raise PreconditionFailed(msg, (50, 40))
    ready_count = purge(tx, queue)
    unsettled = tx.execute(
        "DELETE FROM unacked WHERE queue = ? RETURNING message", (queue.id,)
    ).fetchall()
    tx.database.executemany("DELETE FROM messages WHERE id = ?", unsettled)
    tx.execute("DELETE FROM consumers WHERE queue = ?", (queue.id,))
    tx.execute("DELETE FROM queues WHERE id = ?", (queue.id,))
    drop_bindings_to(tx, QUEUE, queue.name)
    tx.queues_to_check.pop(queue.id, None)
    # The connections of the queue's consumers are woken, so that they end these consumers.
    tx.owners_to_wake.update(holder for (holder,) in holders)
    tx.topology_changed = tx.owners_changed = True
    return ready_count
