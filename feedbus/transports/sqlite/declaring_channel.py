"""The part of a channel that declares, binds and deletes exchanges and queues."""

# ruff: noqa: A002, ARG002, FBT001, FBT002 -- the signatures are py-amqp's

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqp.protocol import queue_declare_ok_t

from feedbus.transports.sqlite import bindings, exchanges, queued_messages, queues
from feedbus.transports.sqlite.base_channel import BaseChannel
from feedbus.transports.sqlite.message_conversion import check_key
from feedbus.transports.sqlite.routing import EXCHANGE, QUEUE


class DeclaringChannel(BaseChannel):
    """The part of a channel with the methods of the AMQP classes `exchange` and `queue`."""

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare an exchange or, with passive, only check that it exists.

        Args:
            exchange: the name.
            type: "direct", "fanout", "topic", "headers" or "x-consistent-hash".
            passive: whether to check only the existence of the exchange.
            durable: stored, and compared when the exchange is declared again. Any exchange of a
                broker file survives a restart.
            auto_delete: whether the exchange is deleted with its last binding.
            nowait: ignored.
            arguments: the arguments, such as alternate-exchange; None for none.

        Raises:
            NotFound: passive is set, and there is no such exchange.
            PreconditionFailed: the exchange exists with other properties.
            InvalidCommand: there is no such exchange type.
            AccessRefused: the name is "", or the name of a new exchange begins with "amq.".
            AMQPNotImplementedError: an argument selects a hash of a header or a property.
        """
        with self._method() as tx:
            if passive:
                if exchange and exchange not in tx.routes.exchanges:
                    bindings.no_exchange(exchange)
                return
            exchanges.declare_exchange(
                tx,
                exchange,
                type,
                durable=durable,
                auto_delete=auto_delete,
                arguments=arguments or {},
            )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange and its bindings; a missing exchange is not an error.

        Args:
            exchange: the name.
            if_unused: whether to refuse the deletion while the exchange has bindings.
            nowait: ignored.

        Raises:
            PreconditionFailed: if_unused is set, and the exchange has bindings.
            AccessRefused: the name is "" or begins with "amq.", so it is reserved.
        """
        with self._method() as tx:
            exchanges.delete_exchange(tx, exchange, if_unused=if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind the exchange `destination` to the exchange `source`.

        Args:
            destination: the exchange that receives messages.
            source: the exchange that routes messages.
            routing_key: the binding key; on an exchange of type x-consistent-hash, the weight.
            nowait: ignored.
            arguments: the arguments of the binding, such as x-match; None for none.

        Raises:
            NotFound: one of the exchanges does not exist.
            AccessRefused: one of the exchanges is the default exchange.
            PreconditionFailed: the weight is not a positive integer, or x-match is invalid.
        """
        with self._method() as tx:
            bindings.bind(
                tx, source, EXCHANGE, destination, check_key(routing_key), arguments or {}
            )

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding between two exchanges; if there is no such binding, do nothing.

        Args:
            destination: the exchange that receives messages.
            source: the exchange that routes messages.
            routing_key: the binding key.
            nowait: ignored.
            arguments: the arguments with which the binding was made; None for none.

        Raises:
            AccessRefused: one of the exchanges is the default exchange.
        """
        with self._method() as tx:
            bindings.unbind(
                tx, source, EXCHANGE, destination, check_key(routing_key), arguments or {}
            )

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> queue_declare_ok_t:
        """Declare a queue or, with passive, only check it; return its name and counts.

        Args:
            queue: the name; "" for a random one.
            passive: whether to check only the existence of the queue.
            durable: stored, and compared when the queue is declared again. Any queue of a broker
                file survives a restart.
            exclusive: whether only this connection may use the queue. An exclusive queue is deleted
                when its connection ends.
            auto_delete: whether the queue is deleted with its last consumer.
            nowait: ignored.
            arguments: the x-arguments, such as x-message-ttl; None for none.

        Returns:
            The name, the number of ready messages and the number of consumers.

        Raises:
            NotFound: passive is set, and there is no such queue.
            PreconditionFailed: the queue exists and differs, or an argument is invalid.
            ResourceLocked: the queue is exclusive to another connection.
            AccessRefused: the name of a new queue begins with "amq.", but not with "amq.gen-".
            AMQPNotImplementedError: RabbitMQ has this argument, but the embedded broker does not.
        """
        if passive and (counts := self._read_counts(queue)) is not None:
            return queue_declare_ok_t(queue, *counts)
        owner = self._link.register() if exclusive else self._link.owner
        with self._method() as tx:
            if passive:
                found_queue = queues.find_queue(tx, queue, owner)
            else:
                found_queue = queues.declare_queue(
                    tx,
                    queue or f"amq.gen-{self._link.unique()}",
                    owner,
                    durable=durable,
                    exclusive=exclusive,
                    auto_delete=auto_delete,
                    arguments=arguments or {},
                )
            if found_queue.may_have_ttl:
                queued_messages.expire_head(tx, found_queue)
            (consumers,) = tx.execute(
                "SELECT count(*) FROM consumers WHERE queue = ?", (found_queue.id,)
            ).fetchone()
            return queue_declare_ok_t(found_queue.name, tx.depth(found_queue.id), consumers)

    def _read_counts(self, queue: str) -> tuple[int, int] | None:
        """Return the counts of a queue's ready messages and consumers, without a write transaction.

        Only one process can write at a time, so a write transaction may have to wait.

        Returns:
            None if a write transaction is needed: the queue does not exist, is exclusive, or may
            have messages with a time to live; or something on the broker expires now.

        """
        link = self._link
        self.flush()  # earlier messages of this channel are stored first, so they are counted
        with self._refusals():
            rows = link.tables.read(
                "SELECT depth, (SELECT count(*) FROM consumers WHERE queue = queues.id)"
                " FROM queues, state WHERE name = ? AND NOT exclusive AND NOT expiring"
                " AND (armed_ms IS NULL OR armed_ms > ?)",
                (queue, link.tables.now_ms()),
            )
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind a queue to an exchange.

        Args:
            queue: the queue that receives messages.
            exchange: the exchange that routes messages.
            routing_key: the binding key; on an exchange of type x-consistent-hash, the weight.
            nowait: ignored.
            arguments: the arguments of the binding, such as x-match; None for none.

        Raises:
            NotFound: the queue or the exchange does not exist.
            ResourceLocked: the queue is exclusive to another connection.
            AccessRefused: `exchange` is the default exchange.
            PreconditionFailed: the weight is not a positive integer, or x-match is invalid.
        """
        with self._method() as tx:
            queues.find_queue(tx, queue, self._link.owner, (50, 20))
            bindings.bind(tx, exchange, QUEUE, queue, check_key(routing_key), arguments or {})

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding of a queue to an exchange; if there is no such binding, do nothing.

        Args:
            queue: the queue that receives messages.
            exchange: the exchange that routes messages.
            routing_key: the binding key.
            nowait: ignored.
            arguments: the arguments with which the binding was made; None for none.

        Raises:
            ResourceLocked: the queue is exclusive to another connection.
            AccessRefused: `exchange` is the default exchange.
        """
        with self._method() as tx:
            if queue in tx.routes.queues:
                queues.find_queue(tx, queue, self._link.owner, (50, 50))  # for ResourceLocked
            bindings.unbind(tx, exchange, QUEUE, queue, check_key(routing_key), arguments or {})

    def queue_delete(
        self,
        queue: str = "",
        if_unused: bool = False,
        if_empty: bool = False,
        nowait: bool = False,
    ) -> int:
        """Delete a queue; return the number of its ready messages, 0 if it did not exist.

        Args:
            queue: the name.
            if_unused: whether to refuse the deletion while the queue has consumers.
            if_empty: whether to refuse the deletion while the queue has ready messages.
            nowait: ignored.

        Raises:
            PreconditionFailed: if_unused is set, and the queue has consumers; or if_empty is set,
                and the queue has ready messages.
            ResourceLocked: the queue is exclusive to another connection.
        """
        with self._method() as tx:
            if queue not in tx.routes.queues:
                return 0
            found_queue = queues.find_queue(tx, queue, self._link.owner, (50, 40))
            return queues.delete_queue(tx, found_queue, if_unused=if_unused, if_empty=if_empty)

    def queue_purge(self, queue: str = "", nowait: bool = False) -> int:
        """Delete a queue's ready messages; return how many there were.

        Args:
            queue: the name.
            nowait: ignored.

        Raises:
            NotFound: there is no such queue.
            ResourceLocked: the queue is exclusive to another connection.
        """
        with self._method() as tx:
            found_queue = queues.find_queue(tx, queue, self._link.owner, (50, 30))
            return queued_messages.purge(tx, found_queue)
