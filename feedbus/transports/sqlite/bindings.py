"""Bind and unbind queues and exchanges, with the errors of RabbitMQ."""

from __future__ import annotations

from typing import NoReturn

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from feedbus.transports.sqlite.equivalence import DECLARE_EXCHANGE, Arguments
from feedbus.transports.sqlite.header_matching import x_match_problem
from feedbus.transports.sqlite.routing import EXCHANGE, HEADERS, QUEUE
from feedbus.transports.sqlite.table_json import arguments_to_json
from feedbus.transports.sqlite.transactions import Transaction


def no_exchange(name: str, method: tuple[int, int] = DECLARE_EXCHANGE) -> NoReturn:
    """Raise NotFound with RabbitMQ's text, for an exchange that does not exist.

    Args:
        name: the exchange.
        method: the class id and method id of the AMQP method that failed.
    """
    msg = f"NOT_FOUND - no exchange '{name}' in vhost '/'"
    raise NotFound(msg, method)


def bind(
    tx: Transaction,
    source: str,
    kind: str,
    destination: str,
    routing_key: str,
    arguments: Arguments,
) -> None:
    """Bind a queue or an exchange; an existing binding stays unchanged, and keeps its position.

    Args:
        tx: the transaction.
        source: the exchange that routes messages.
        kind: whether the destination is a QUEUE or an EXCHANGE.
        destination: the name of the queue or exchange that receives messages.
        routing_key: the binding key; on a ring, the weight.
        arguments: the arguments of the binding, such as x-match.

    Raises:
        NotFound: there is no such source or destination exchange.
        AccessRefused: bindings of the default exchange cannot be changed.
        PreconditionFailed: the weight of a binding to a ring is not a positive integer, or the
            x-match of a binding to a headers exchange is invalid.

    """
    _refuse_default_exchange(source, kind, destination)
    if source not in tx.routes.exchanges:
        no_exchange(source, (50, 20))
    if kind == EXCHANGE and destination not in tx.routes.exchanges:
        no_exchange(destination, (40, 30))
    bucketed = False
    exchange_type = tx.routes.exchanges[source].type
    if exchange_type == HEADERS and (problem := x_match_problem(arguments)):
        msg = f"PRECONDITION_FAILED - {problem}"
        raise PreconditionFailed(msg, (50, 20) if kind == QUEUE else (40, 30))
    if exchange_type == "x-consistent-hash":
        if not (routing_key.isascii() and routing_key.isdigit() and int(routing_key) > 0):
            msg = (
                f"PRECONDITION_FAILED - Binding key must be a positive integer on exchange"
                f" '{source}' in vhost '/', got '{routing_key}'"
            )
            raise PreconditionFailed(msg, (50, 20))
        # On a ring, each queue has as many buckets as its weight. If the destination is bound a
        # second time with another weight, the binding is listed, but does not change the ring.
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
            arguments_to_json(arguments),
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
    """Remove one binding; the binding, its source and its destination need not exist.

    Args:
        tx: the transaction.
        source: the exchange of the binding.
        kind: whether the destination is a QUEUE or an EXCHANGE.
        destination: the name of the bound queue or exchange.
        routing_key: the binding key; on a ring, the weight.
        arguments: the arguments of the binding, such as x-match; equal to those of bind().

    Raises:
        AccessRefused: bindings of the default exchange cannot be changed.
    """
    _refuse_default_exchange(source, kind, destination)
    changed = tx.execute(
        "DELETE FROM bindings WHERE source = ? AND kind = ? AND destination = ?"
        " AND routing_key = ? AND arguments = ?",
        (source, kind, destination, routing_key, arguments_to_json(arguments)),
    ).rowcount
    if changed:
        # Each unbinding removes all buckets of the destination. If another binding of the
        # destination is left, the destination stays bound, but gets no message.
        tx.execute(
            "UPDATE bindings SET bucketed = 0 WHERE source = ? AND kind = ? AND destination = ?",
            (source, kind, destination),
        )
        drop_unbound(tx, source)
        tx.topology_changed = True


def _refuse_default_exchange(source: str, kind: str, destination: str) -> None:
    if not source or (kind == EXCHANGE and not destination):
        msg = "ACCESS_REFUSED - operation not permitted on the default exchange"
        raise AccessRefused(msg, (50, 20))


def drop_bindings_to(tx: Transaction, kind: str, name: str) -> None:
    """Delete all bindings to a queue or exchange, because it is deleted.

    A source exchange with auto-delete that has no other binding is deleted, too.

    Args:
        tx: the transaction.
        kind: whether the destination is a QUEUE or an EXCHANGE.
        name: the name of the deleted queue or exchange.
    """
    sources = tx.execute(
        "DELETE FROM bindings WHERE kind = ? AND destination = ? RETURNING source", (kind, name)
    ).fetchall()
    for source in {source for (source,) in sources}:
        drop_unbound(tx, source)


def drop_unbound(tx: Transaction, source: str) -> None:
    """Delete the exchange `source` if it has auto-delete and no bindings.

    It is called after a binding of the exchange was removed.
    """
    exchange = tx.routes.exchanges.get(source)
    if exchange is None or not exchange.auto_delete:
        return
    if not tx.execute("SELECT 1 FROM bindings WHERE source = ? LIMIT 1", (source,)).fetchone():
        tx.execute("DELETE FROM exchanges WHERE name = ?", (source,))
        drop_bindings_to(tx, EXCHANGE, source)
