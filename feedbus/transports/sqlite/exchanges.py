"""Declare and delete exchanges, with the errors of RabbitMQ."""

from __future__ import annotations

from amqp.exceptions import (
    AccessRefused,
    AMQPNotImplementedError,
    InvalidCommand,
    PreconditionFailed,
)

from feedbus.transports.sqlite.bindings import drop_bindings_to
from feedbus.transports.sqlite.equivalence import (
    DECLARE_EXCHANGE,
    Arguments,
    check_same,
    check_same_argument,
)
from feedbus.transports.sqlite.routing import EXCHANGE, TYPES
from feedbus.transports.sqlite.table_json import arguments_to_json
from feedbus.transports.sqlite.transactions import Transaction


def declare_exchange(
    tx: Transaction, name: str, kind: str, *, durable: bool, auto_delete: bool, arguments: Arguments
) -> None:
    """Declare an exchange; if an equal one exists, nothing changes.

    Args:
        tx: the transaction.
        name: the name of the exchange.
        kind: the type, such as "direct" or "x-consistent-hash".
        durable: stored, and compared when the exchange is declared again.
        auto_delete: whether the exchange is deleted with its last binding.
        arguments: the arguments, such as alternate-exchange.

    Raises:
        PreconditionFailed: the exchange exists with other properties.
        InvalidCommand: there is no such exchange type.
        AccessRefused: the name is "", or the name of a new exchange begins with "amq.".
        AMQPNotImplementedError: an argument selects a hash of a header or a property.
    """
    if not name:
        msg = "ACCESS_REFUSED - operation not permitted on the default exchange"
        raise AccessRefused(msg, DECLARE_EXCHANGE)
    if kind not in TYPES:
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
            (name, kind, durable, auto_delete, arguments_to_json(arguments)),
        )
        tx.topology_changed = True
        return
    object_text = f"exchange '{name}'"
    check_same(object_text, "type", kind, existing.type)
    check_same(object_text, "durable", durable, existing.durable)
    check_same(object_text, "auto_delete", auto_delete, existing.auto_delete)
    check_same_argument(
        object_text, "alternate-exchange", arguments, existing.arguments, DECLARE_EXCHANGE
    )


def delete_exchange(tx: Transaction, name: str, *, if_unused: bool) -> None:
    """Delete an exchange and its bindings; a missing exchange is not an error.

    Args:
        tx: the transaction.
        name: the name of the exchange.
        if_unused: whether to refuse the deletion while the exchange has bindings.

    Raises:
        PreconditionFailed: if_unused is set, and the exchange has bindings.
        AccessRefused: the name is "" or begins with "amq.", so it is reserved.
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
    drop_bindings_to(tx, EXCHANGE, name)
