"""Take messages from queues, settle them, put them back, and expire or drop them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from feedbus.transports.sqlite.deadletter import EXPIRED, LIMIT, MAXLEN, REJECTED, dead_letter
from feedbus.transports.sqlite.routing import Queue
from feedbus.transports.sqlite.transactions import Transaction

HEADS_AT_ONCE = 1000  # messages that are expired or dropped in one step
# How often claim() reads the head of a queue, if it finds expired messages there each time. After
# that, claim() returns no message. So the transaction ends, and other connections can write.
PASSES = 4


def expire_head(tx: Transaction, queue: Queue) -> None:
    """Dead-letter the expired messages at the head of a queue, at most 1,000 in one call.

    If more messages are expired, the expiry check stays due, so a later transaction calls this
    function again. Other connections can write between the calls.
    """
    tx.write_added()
    rows = tx.execute(
        "SELECT message, expires_ms FROM ready WHERE queue = ? ORDER BY message LIMIT ?",
        (queue.id, HEADS_AT_ONCE),
    ).fetchall()
    expired = []
    for message, expires_ms in rows:
        if expires_ms is None or expires_ms > tx.now_ms:
            break
        expired.append(message)
    if expired:
        _drop(tx, queue, expired, EXPIRED)


def _drop(tx: Transaction, queue: Queue, heads: Sequence[int], reason: str) -> None:
    tx.execute("DELETE FROM ready WHERE queue = ? AND message <= ?", (queue.id, heads[-1]))
    tx.count(queue.id, -len(heads))
    dead_letter(tx, queue, heads, reason)


def claim(
    tx: Transaction, queue: Queue, connection_id: int, limit: int, consumer_count: int
) -> list[tuple[int, int]]:
    """Take messages from the head of a queue for a consumer, at most `limit`.

    If few messages are ready, the consumer gets only its share: their number divided by the number
    of consumers, rounded up. So the other consumers of the queue get messages, too.

    Args:
        tx: the transaction.
        queue: the queue.
        connection_id: the connection that gets the messages.
        limit: the largest number of messages.
        consumer_count: the number of consumers of the queue, including this one.

    Returns:
        The id of each message and how often it was returned to the queue before, in queue order.
    """
    claimed: list[tuple[int, int]] = []
    passes = 0
    while not claimed and passes < PASSES:
        passes += 1
        rows = tx.execute(
            "SELECT message, returns, expires_ms FROM ready WHERE queue = ?"
            " ORDER BY message LIMIT ?",
            (queue.id, limit * consumer_count),
        ).fetchall()
        if not rows:
            break
        if queue.may_have_ttl and any(row[2] is not None and row[2] <= tx.now_ms for row in rows):
            _expire_among(tx, queue, rows)
            continue
        rows = rows[: min(limit, -(-len(rows) // consumer_count))]
        last = rows[-1][0]
        tx.execute(
            "INSERT INTO unacked SELECT ?, message, queue, returns, expires_ms FROM ready"
            " WHERE queue = ? AND message <= ?",
            (connection_id, queue.id, last),
        )
        tx.execute("DELETE FROM ready WHERE queue = ? AND message <= ?", (queue.id, last))
        tx.count(queue.id, -len(rows))
        claimed = [(message, returns) for message, returns, _ in rows]
    if passes and queue.may_have_ttl:
        # The queue has a new first message, which may expire at another time.
        tx.queues_to_check[queue.id] = queue
    return claimed


def _expire_among(
    tx: Transaction, queue: Queue, rows: Iterable[tuple[int, int, int | None]]
) -> None:
    # RabbitMQ expires a message only when it is the first message of its queue. The messages in
    # `rows` are about to be delivered in order, so each of them becomes the first message.
    expired = [message for message, _, at in rows if at is not None and at <= tx.now_ms]
    tx.database.executemany(
        "DELETE FROM ready WHERE queue = ? AND message = ?",
        ((queue.id, message) for message in expired),
    )
    tx.count(queue.id, -len(expired))
    dead_letter(tx, queue, expired, EXPIRED)
    tx.write_added()


def content_of(tx: Transaction, message: int) -> tuple[str, str, str, bytes] | None:
    """Return exchange, routing key, properties (JSON) and body of a message; None if it is deleted.

    Args:
        tx: the transaction.
        message: the id of the message.
    """
    row: tuple[str, str, str, bytes] | None = tx.execute(
        "SELECT exchange, routing_key, properties, body FROM messages WHERE id = ?", (message,)
    ).fetchone()
    return row


def settle(tx: Transaction, connection_id: int, messages: Sequence[int]) -> int:
    """Delete acknowledged messages, if they are still unsettled deliveries of the connection.

    Args:
        tx: the transaction.
        connection_id: the connection that has acknowledged them.
        messages: the ids of the messages.

    Returns:
        How many were deleted. The others were deleted before with their queues, or the connection
        was removed because it was treated as dead.

    """
    deleted = tx.database.executemany(
        "DELETE FROM unacked WHERE owner = ? AND message = ?",
        ((connection_id, message) for message in messages),
    ).rowcount
    if deleted > 0:
        tx.database.executemany(
            "DELETE FROM messages WHERE id = ?", ((message,) for message in messages)
        )
    return max(0, deleted)


def reject(tx: Transaction, connection_id: int, message: int) -> bool:
    """Dead-letter a delivery of a connection; return False if it was settled or returned before.

    Args:
        tx: the transaction.
        connection_id: the connection that has rejected the delivery.
        message: the id of the message.

    """
    row = tx.execute(
        "DELETE FROM unacked WHERE owner = ? AND message = ? RETURNING queue",
        (connection_id, message),
    ).fetchone()
    if row is None:
        return False
    queue = tx.routes.queues_by_id.get(row[0])
    if queue is None:
        tx.execute("DELETE FROM messages WHERE id = ?", (message,))
    else:
        dead_letter(tx, queue, [message], REJECTED)
    return True


def put_back(
    tx: Transaction,
    connection_id: int,
    messages: Iterable[int] | None = None,
    *,
    delivered: bool = True,
) -> int:
    """Return deliveries to their positions in their queues.

    A message that was returned more often than the x-delivery-limit of its queue allows is
    dead-lettered instead. A message whose queue was deleted is deleted, too.

    Args:
        tx: the transaction.
        connection_id: the connection to which they were delivered.
        messages: the ids of the messages; None for all deliveries of the connection.
        delivered: whether a consumer has received them, so that they count as redelivered.

    Returns:
        The number of these deliveries that were still unsettled.

    """
    if messages is None:
        rows = tx.execute(
            "DELETE FROM unacked WHERE owner = ? RETURNING message, queue, returns, expires_ms",
            (connection_id,),
        ).fetchall()
    else:
        rows = []
        for message in messages:
            rows += tx.execute(
                "DELETE FROM unacked WHERE owner = ? AND message = ?"
                " RETURNING message, queue, returns, expires_ms",
                (connection_id, message),
            ).fetchall()
    exhausted: dict[int, list[int]] = defaultdict(list)
    for message, queue_id, returns, expires_ms in sorted(rows):
        queue = tx.routes.queues_by_id.get(queue_id)
        count = returns + delivered
        if queue is None:
            tx.execute("DELETE FROM messages WHERE id = ?", (message,))
        elif queue.delivery_limit is not None and count > queue.delivery_limit:
            exhausted[queue_id].append(message)
        else:
            tx.execute("INSERT INTO ready VALUES (?,?,?,?)", (queue_id, message, count, expires_ms))
            tx.count(queue_id, 1)
            tx.queues_with_new_messages[queue_id] = queue
            if queue.max_length is not None or queue.may_have_ttl:
                tx.queues_to_check[queue_id] = queue
    for queue_id, spent in exhausted.items():
        dead_letter(tx, tx.routes.queues_by_id[queue_id], spent, LIMIT)
    return len(rows)


def purge(tx: Transaction, queue: Queue) -> int:
    """Delete the ready messages of a queue; return how many there were.

    Args:
        tx: the transaction.
        queue: the queue.
    """
    tx.execute(
        "DELETE FROM messages WHERE id IN (SELECT message FROM ready WHERE queue = ?)", (queue.id,)
    )
    count = tx.execute("DELETE FROM ready WHERE queue = ?", (queue.id,)).rowcount
    tx.count(queue.id, -count)
    return count


def enforce_limits(tx: Transaction) -> None:
    """Drop messages at the head of changed queues that are longer than their x-max-length.

    Each write transaction calls it at its end. It also sets the time of the next expiry check.
    """
    tx.write_added()
    while tx.queues_to_check:
        _, queue = tx.queues_to_check.popitem()
        if queue.max_length is not None and queue.overflow == "drop-head":
            while (excess := tx.depth(queue.id) - queue.max_length) > 0:
                heads = tx.execute(
                    "SELECT message FROM ready WHERE queue = ? ORDER BY message LIMIT ?",
                    (queue.id, min(excess, HEADS_AT_ONCE)),
                ).fetchall()
                if not heads:
                    break
                _drop(tx, queue, [head for (head,) in heads], MAXLEN)
        tx.write_added()
        schedule_expiry(tx, head_expiry(tx, queue.id))


def head_expiry(tx: Transaction, queue_id: int) -> int | None:
    """Return when the first message of a queue expires, in ms of the broker's time.

    None means that the queue is empty, or that the message does not expire.

    Args:
        tx: the transaction.
        queue_id: the id of the queue.
    """
    row = tx.execute(
        "SELECT expires_ms FROM ready WHERE queue = ? ORDER BY message LIMIT 1", (queue_id,)
    ).fetchone()
    return row[0] if row else None


def schedule_expiry(tx: Transaction, at_ms: int | None) -> None:
    """Move the broker's next expiry check to an earlier time.

    After a change, all waiting connections are woken, so that they wait for the new time.

    Args:
        tx: the transaction.
        at_ms: the time when something expires, in ms of the broker's time. None, or a time after
            the planned check, changes nothing.
    """
    if at_ms is not None and (tx.armed_ms is None or at_ms < tx.armed_ms):
        tx.armed_ms = at_ms
        tx.everyone = True
