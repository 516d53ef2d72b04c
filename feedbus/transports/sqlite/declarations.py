"""Declaring, binding and deleting exchanges and queues, with RabbitMQ's refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    InvalidCommand,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)

from feedbus.transports.sqlite.delivery import arm, purge
from feedbus.transports.sqlite.file import Transaction
from feedbus.transports.sqlite.routing import EXCHANGE, MATCHES, QUEUE, Queue, make_queue

DECLARE_EXCHANGE, DECLARE_QUEUE = (40, 10), (50, 10)
SMALLEST = {"x-message-ttl": 0, "x-expires": 1, "x-max-length": 0, "x-delivery-limit": 0}
CHOICES = {
    "x-queue-type": ("classic", "quorum"),
    "x-overflow": ("drop-head", "reject-publish", "reject-publish-dlx"),
}
NOT_BUILT = ("x-max-length-bytes", "x-max-priority")
LARGEST = 2**32 - 1

Arguments = Mapping[str, Any]


def no_exchange(name: str, method: tuple[int, int] = DECLARE_EXCHANGE) -> NoReturn:
    """Raise what RabbitMQ says to a name that no exchange has."""
    msg = f"NOT_FOUND - no exchange '{name}' in vhost '/'"
    raise NotFound(msg, method)


def find_queue(
    tx: Transaction, name: str, owner: int | None, method: tuple[int, int] = DECLARE_QUEUE
) -> Queue:
    """Return a queue, or refuse as RabbitMQ does.

    Raises:
        NotFound: there is none.
        ResourceLocked: it belongs to another connection alone.

    """
    queue = tx.routes.queues.get(name)
    if queue is None:
        msg = f"NOT_FOUND - no queue '{name}' in vhost '/'"
        raise NotFound(msg, method)
    if queue.exclusive and queue.owner != owner:
        msg = (
            f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost"
            " '/'. It could be originally declared on another connection or the exclusive property"
            " value does not match that of the original declaration."
        )
        raise ResourceLocked(msg, method)
    return queue


def declare_exchange(
    tx: Transaction, name: str, kind: str, *, durable: bool, auto_delete: bool, arguments: Arguments
) -> None:
    """Declare an exchange; the same again does nothing.

    Raises:
        PreconditionFailed: it exists and differs.
        InvalidCommand: there is no such type.
        AccessRefused: the name is the broker's own.

    """
    if not name:
        msg = "ACCESS_REFUSED - operation not permitted on the default exchange"
        raise AccessRefused(msg, DECLARE_EXCHANGE)
    if kind not in MATCHES:
        msg = f"COMMAND_INVALID - unknown exchange type '{kind}'"
        raise InvalidCommand(msg, DECLARE_EXCHANGE)
    for key in ("hash-header", "hash-property"):
        if key in arguments:
            msg = f"NOT_IMPLEMENTED - the embedded broker hashes routing keys only, not by {key}"
            raise AMQPNotImplementedError(msg, DECLARE_EXCHANGE)
    existing = tx.routes.exchanges.get(name)
    if existing is None:
        if name.startswith("amq."):
            msg = f"ACCESS_REFUSED - exchange name '{name}' contains reserved prefix 'amq.*'"
            raise AccessRefused(msg, DECLARE_EXCHANGE)
        tx.execute(
            "INSERT INTO exchanges VALUES (?,?,?,?,?)",
            (name, kind, durable, auto_delete, json.dumps(dict(arguments))),
        )
        tx.topology_changed = True
        return
    what = f"exchange '{name}'"
    _same(what, "type", kind, existing.type)
    _same(what, "durable", durable, existing.durable)
    _same(what, "auto_delete", auto_delete, existing.auto_delete)
    _same_argument(what, "alternate-exchange", arguments, existing.arguments, DECLARE_EXCHANGE)


def _same(what: str, name: str, received: bool | str, current: bool | str) -> None:  # noqa: FBT001 -- compared, not obeyed
    if received != current:
        told = (
            str(value).lower() if isinstance(value, bool) else value
            for value in (received, current)
        )
        msg = (
            f"PRECONDITION_FAILED - inequivalent arg '{name}' for {what} in vhost '/':"
            " received '{}' but current is '{}'".format(*told)
        )
        raise PreconditionFailed(msg, DECLARE_EXCHANGE if "exchange" in what else DECLARE_QUEUE)


def _same_argument(
    what: str, name: str, received: Arguments, current: Arguments, method: tuple[int, int]
) -> None:
    if received.get(name) != current.get(name):
        msg = (
            f"PRECONDITION_FAILED - inequivalent arg '{name}' for {what} in vhost '/': received"
            f" {_told(received, name)} but current is {_told(current, name)}"
        )
        raise PreconditionFailed(msg, method)


def _told(arguments: Arguments, name: str) -> str:
    if name not in arguments:
        return "none"
    value = arguments[name]
    kind = {bool: "bool", int: "signedint", str: "longstr"}.get(type(value), type(value).__name__)
    return f"the value '{value}' of type '{kind}'"


def delete_exchange(tx: Transaction, name: str, *, if_unused: bool) -> None:
    """Delete an exchange and its bindings; one that does not exist is no error.

    Raises:
        PreconditionFailed: if_unused, and it has bindings.
        AccessRefused: it is the broker's own.

    """
    if not name or name.startswith("amq."):
        msg = f"ACCESS_REFUSED - operation not permitted on exchange '{name}'"
        raise AccessRefused(msg, (40, 20))
    if name not in tx.routes.exchanges:
        return
    if if_unused and tx.routes.bindings.get(name):
        msg = f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"
        raise PreconditionFailed(msg, (40, 20))
    tx.execute("DELETE FROM exchanges WHERE name = ?", (name,))
    tx.execute("DELETE FROM bindings WHERE source = ?", (name,))
    tx.topology_changed = True
    _drop_bindings_to(tx, EXCHANGE, name)


def _drop_bindings_to(tx: Transaction, kind: str, name: str) -> None:
    sources = tx.execute(
        "DELETE FROM bindings WHERE kind = ? AND destination = ? RETURNING source", (kind, name)
    ).fetchall()
    for source in {source for (source,) in sources}:
        _drop_unbound(tx, source)


def _drop_unbound(tx: Transaction, source: str) -> None:
    exchange = tx.routes.exchanges.get(source)
    if exchange is None or not exchange.auto_delete:
        return
    if not tx.execute("SELECT 1 FROM bindings WHERE source = ? LIMIT 1", (source,)).fetchone():
        tx.execute("DELETE FROM exchanges WHERE name = ?", (source,))
        _drop_bindings_to(tx, EXCHANGE, source)


def declare_queue(
    tx: Transaction,
    name: str,
    owner: int | None,
    *,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: Arguments,
) -> Queue:
    """Declare a queue; the same again does nothing but count as a use.

    Raises:
        PreconditionFailed: it exists and differs, or an argument makes no sense.
        ResourceLocked: it belongs to another connection alone.

    """
    what = f"queue '{name}'"
    if name in tx.routes.queues:
        queue = find_queue(tx, name, owner)
        _same(what, "durable", durable, queue.durable)
        _same(what, "exclusive", exclusive, queue.exclusive)
        _same(what, "auto_delete", auto_delete, queue.auto_delete)
        current = {"x-queue-type": "classic"} | dict(queue.arguments)
        received = {"x-queue-type": "classic"} | dict(arguments)
        for key in sorted(current.keys() | received.keys()):
            _same_argument(what, key, received, current, DECLARE_QUEUE)
    else:
        if name.startswith("amq.") and not name.startswith("amq.gen-"):
            msg = f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
            raise AccessRefused(msg, DECLARE_QUEUE)
        _check_arguments(what, arguments, durable=durable, exclusive=exclusive)
        values = (
            name,
            durable,
            exclusive,
            auto_delete,
            json.dumps(dict(arguments)),
            owner if exclusive else None,
            "x-message-ttl" in arguments,
        )
        (identity,) = tx.execute(
            "INSERT INTO queues (name, durable, exclusive, auto_delete, arguments, owner,"
            " expiring, depth, used_ms) VALUES (?,?,?,?,?,?,?,0,0) RETURNING id",
            values,
        ).fetchone()
        queue = make_queue(identity, *values[:5], *values[5:])
        tx.topology_changed = True
    touch(tx, queue)
    return queue


def touch(tx: Transaction, queue: Queue) -> None:
    """Note that a queue was used now, and set its clock when it expires unused."""
    if queue.expires_ms is not None:
        tx.execute("UPDATE queues SET used_ms = ? WHERE id = ?", (tx.now_ms, queue.id))
        arm(tx, tx.now_ms + queue.expires_ms)


def _check_arguments(what: str, arguments: Arguments, *, durable: bool, exclusive: bool) -> None:
    for name, problem in _problems(arguments, durable=durable, exclusive=exclusive):
        msg = f"PRECONDITION_FAILED - invalid arg '{name}' for {what} in vhost '/': {problem}"
        raise PreconditionFailed(msg, DECLARE_QUEUE)
    for name in NOT_BUILT:
        if name in arguments:
            msg = f"NOT_IMPLEMENTED - the embedded broker has no {name} ({what})"
            raise AMQPNotImplementedError(msg, DECLARE_QUEUE)


def _problems(arguments: Arguments, *, durable: bool, exclusive: bool) -> Iterator[tuple[str, str]]:
    for name, smallest in SMALLEST.items():
        value = arguments.get(name, smallest)
        if isinstance(value, bool) or not isinstance(value, int):
            yield name, f"expected an integer, got {value!r}"
        elif not smallest <= value <= LARGEST:
            yield name, f"expected {smallest} to {LARGEST}, got {value}"
    for name, choices in CHOICES.items():
        if arguments.get(name, choices[0]) not in choices:
            yield name, f"expected one of {', '.join(choices)}, got {arguments[name]!r}"
    quorum = arguments.get("x-queue-type") == "quorum"
    if "x-delivery-limit" in arguments and not quorum:
        yield "x-delivery-limit", "expected on a quorum queue only"
    if quorum and (exclusive or not durable):
        yield "x-queue-type", "a quorum queue is durable and not exclusive"
    yield from _dead_letter_problems(arguments)


def _dead_letter_problems(arguments: Arguments) -> Iterator[tuple[str, str]]:
    for name in ("x-dead-letter-exchange", "x-dead-letter-routing-key"):
        if not isinstance(arguments.get(name, ""), str):
            yield name, f"expected text, got {arguments[name]!r}"
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        yield "x-dead-letter-routing-key", "expected x-dead-letter-exchange beside it"


def delete_queue(
    tx: Transaction, queue: Queue, *, if_unused: bool = False, if_empty: bool = False
) -> int:
    """Delete a queue, its bindings and messages; return how many were ready.

    Raises:
        PreconditionFailed: if_unused and it has consumers, or if_empty and it has messages.

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
    gone = purge(tx, queue)
    held = tx.execute(
        "DELETE FROM unacked WHERE queue = ? RETURNING message", (queue.id,)
    ).fetchall()
    tx.database.executemany("DELETE FROM messages WHERE id = ?", held)
    tx.execute("DELETE FROM consumers WHERE queue = ?", (queue.id,))
    tx.execute("DELETE FROM queues WHERE id = ?", (queue.id,))
    _drop_bindings_to(tx, QUEUE, queue.name)
    tx.unsettled.pop(queue.id, None)
    tx.stirred.update(holder for (holder,) in holders)  # they are to hear of it
    tx.topology_changed = tx.owners_changed = True
    return gone


def bind(
    tx: Transaction,
    source: str,
    kind: str,
    destination: str,
    routing_key: str,
    arguments: Arguments,
) -> None:
    """Bind a queue or an exchange; a binding that exists stays as it is, in its place.

    Raises:
        NotFound: there is no such source or destination exchange.
        AccessRefused: the default exchange is bound as it is.
        PreconditionFailed: a weight on a ring that is no positive integer.

    """
    _check_ends(tx, source, kind, destination)
    bucketed = False
    if tx.routes.exchanges[source].type == "x-consistent-hash":
        if not (routing_key.isascii() and routing_key.isdigit() and int(routing_key) > 0):
            msg = (
                f"PRECONDITION_FAILED - Binding key must be a positive integer on exchange"
                f" '{source}' in vhost '/', got '{routing_key}'"
            )
            raise PreconditionFailed(msg, (50, 20))
        # A second weight for a destination is listed and changes nothing on the ring.
        bucketed = not any(
            binding.bucketed and (binding.kind, binding.destination) == (kind, destination)
            for binding in tx.routes.bindings.get(source, ())
        )
    changed = tx.execute(
        "INSERT OR IGNORE INTO bindings (source, kind, destination, routing_key, arguments,"
        " bucketed) VALUES (?,?,?,?,?,?)",
        (
            source,
            kind,
            destination,
            routing_key,
            json.dumps(dict(arguments), sort_keys=True),
            bucketed,
        ),
    ).rowcount
    tx.topology_changed = tx.topology_changed or bool(changed)


def unbind(
    tx: Transaction,
    source: str,
    kind: str,
    destination: str,
    routing_key: str,
    arguments: Arguments,
) -> None:
    """Remove a binding; one that does not exist is no error.

    Raises:
        NotFound: there is no such source or destination exchange.
        AccessRefused: the default exchange is bound as it is.

    """
    _check_ends(tx, source, kind, destination)
    changed = tx.execute(
        "DELETE FROM bindings WHERE source = ? AND kind = ? AND destination = ?"
        " AND routing_key = ? AND arguments = ?",
        (source, kind, destination, routing_key, json.dumps(dict(arguments), sort_keys=True)),
    ).rowcount
    if changed:
        # Any unbinding takes all buckets of the destination: bound, but unreachable.
        tx.execute(
            "UPDATE bindings SET bucketed = 0 WHERE source = ? AND kind = ? AND destination = ?",
            (source, kind, destination),
        )
        _drop_unbound(tx, source)
        tx.topology_changed = True


def _check_ends(tx: Transaction, source: str, kind: str, destination: str) -> None:
    if not source or (kind == EXCHANGE and not destination):
        msg = "ACCESS_REFUSED - operation not permitted on the default exchange"
        raise AccessRefused(msg, (50, 20))
    if source not in tx.routes.exchanges:
        no_exchange(source, (50, 20))
    if kind == EXCHANGE and destination not in tx.routes.exchanges:
        no_exchange(destination, (40, 30))
