"""Dead-letter messages that were expired, rejected, redelivered too often, or in a full queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from feedbus.transports.sqlite.message_conversion import Content, Properties, dump
from feedbus.transports.sqlite.routing import Queue
from feedbus.transports.sqlite.table_json import table_from_json
from feedbus.transports.sqlite.transactions import Transaction

EXPIRED, REJECTED, MAXLEN, LIMIT = "expired", "rejected", "maxlen", "delivery_limit"


def dead_letter(tx: Transaction, queue: Queue, messages: Sequence[int], reason: str) -> None:
    """Publish removed messages of a queue to the queue's dead-letter exchange.

    Each message is published as a copy with the x-death headers. Then the message itself is
    deleted. If the queue has no dead-letter exchange, the message is only deleted.

    Args:
        tx: the transaction.
        queue: the queue from which the messages were removed.
        messages: the ids of the messages.
        reason: EXPIRED, REJECTED, MAXLEN (the queue was too long) or LIMIT (delivered too often).
    """
    if queue.dead_letter_exchange is not None:
        for message in messages:
            row = tx.execute(
                "SELECT exchange, routing_key, properties, body FROM messages WHERE id = ?",
                (message,),
            ).fetchone()
            if row:
                send_on(tx, queue, Content(*row), reason)
    tx.database.executemany(
        "DELETE FROM messages WHERE id = ?", ((message,) for message in messages)
    )


def send_on(tx: Transaction, queue: Queue, content: Content, reason: str) -> None:
    """Publish a message of a queue to the queue's dead-letter exchange, if that exchange exists.

    Args:
        tx: the transaction.
        queue: the queue that the message leaves.
        content: the message.
        reason: EXPIRED, REJECTED, MAXLEN (the queue was too long) or LIMIT (delivered too often).
    """
    exchange = queue.dead_letter_exchange or ""
    if exchange and exchange not in tx.routes.exchanges:
        return
    key = content.routing_key if queue.dead_letter_key is None else queue.dead_letter_key
    properties = table_from_json(content.properties)
    deaths = note_death(properties, queue.name, content, reason, tx.current_datetime())
    priority = properties.get("priority", 0)
    letter = Content(exchange, key, dump(properties), content.body, priority=priority)
    targets = [
        target
        for target in tx.routes.route(exchange, key, letter.properties)
        if reason == REJECTED or not in_cycle(target.name, deaths)
    ]
    put(tx, letter, targets, refusable=not queue.at_least_once)


def note_death(
    properties: Properties, queue: str, content: Content, reason: str, died_at: datetime
) -> list[dict[str, Any]]:
    """Write the x-death headers into the properties of a dead letter, as RabbitMQ does.

    Args:
        properties: the properties to change.
        queue: the name of the queue that the message leaves.
        content: the message, with the exchange and routing key by which it reached the queue.
        reason: EXPIRED, REJECTED, MAXLEN (the queue was too long) or LIMIT (delivered too often).
        died_at: the time of the dead-lettering.

    Returns:
        The value of the header x-death, the newest entry first.
    """
    headers = properties.setdefault("application_headers", {})
    old_deaths = headers.get("x-death")
    deaths = (
        [death for death in old_deaths if isinstance(death, dict)]
        if isinstance(old_deaths, list)
        else []
    )
    death: dict[str, Any] = {"count": 1}
    for position, earlier in enumerate(deaths):
        if earlier.get("queue") == queue and earlier.get("reason") == reason:
            death = {**deaths.pop(position)}
            death["count"] = int(death.get("count", 0)) + 1
            break
    else:
        death |= {
            "reason": reason,
            "queue": queue,
            "time": died_at,
            "exchange": content.exchange,
            "routing-keys": [content.routing_key],
        }
        expiration = properties.get("expiration")
        if expiration is not None:
            death["original-expiration"] = expiration
    properties.pop("expiration", None)  # otherwise the message would expire again in the next queue
    headers["x-death"] = [death, *deaths]
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-exchange", content.exchange)
    return [death, *deaths]


def in_cycle(queue: str, deaths: Sequence[dict[str, Any]]) -> bool:
    """Return whether a dead letter has been in this queue before, and was not rejected since then.

    RabbitMQ drops such a message, because it would circulate without end.

    Args:
        queue: the name of the queue.
        deaths: the value of the header x-death, the newest entry first.

    """
    for position, death in enumerate(deaths):
        if death.get("queue") == queue:
            return all(step.get("reason") != REJECTED for step in deaths[: position + 1])
    return False


def put(
    tx: Transaction, content: Content, queues: Sequence[Queue], *, refusable: bool = True
) -> bool:
    """Put a message into each queue that has room; return whether all of them had room.

    A queue has no room if it contains x-max-length messages, and its x-overflow is "reject-publish"
    or "reject-publish-dlx". With "reject-publish-dlx", the message goes to the dead-letter exchange
    of the queue.

    Args:
        tx: the transaction.
        content: the message.
        queues: the queues to which the message was routed.
        refusable: False to put the message also into full queues.
    """
    accepted = True
    for queue in queues:
        refuses = refusable and queue.overflow.startswith("reject-publish")
        if refuses and queue.max_length is not None and tx.depth(queue.id) >= queue.max_length:
            accepted = False
            if queue.overflow == "reject-publish-dlx" and queue.dead_letter_exchange is not None:
                send_on(tx, queue, content, MAXLEN)
            continue
        waits = [wait for wait in (queue.ttl_ms, content.expiration_ms) if wait is not None]
        if content.expiration_ms is not None and not queue.may_have_ttl:
            tx.execute("UPDATE queues SET expiring = 1 WHERE id = ?", (queue.id,))
            tx.topology_changed = True
            tx.queues_to_check[queue.id] = queue
        tx.add(queue, content, tx.now_ms + min(waits) if waits else None)
    return accepted
