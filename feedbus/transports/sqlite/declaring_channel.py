"""The part of a channel that declares, binds and deletes exchanges and queues."""

# ruff: noqa: A002, ARG002, FBT001, FBT002 -- the signatures are py-amqp's

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqp.protocol import queue_declare_ok_t

from feedbus.transports.sqlite import bindings, exchanges, queued_messages, queues
from feedbus.transports.sqlite.base_channel import BaseChannel
from feedbus.transports.sqlite.message_content import check_key
from feedbus.transports.sqlite.routing import EXCHANGE, QUEUE


class DeclaringChannel(BaseChannel):
    """The methods of the AMQP classes `exchange` and `queue`."""

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
        """Declare an exchange or, with passive, only check that it exists."""
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
        """Delete an exchange and its bindings."""
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
        """Route messages with that key from source to destination."""
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
        """Undo exchange_bind."""
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
        """Declare a queue or, with passive, only check it; return its name and counts."""
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
            None if a write transaction is needed: the queue does not exist, is exclusive, or
            something expires now.

        """
        link = self._link
        self.flush()  # as _method() does
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
        """Route messages with that key from the exchange to the queue."""
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
        """Undo queue_bind."""
        with self._method() as tx:
            if queue in tx.routes.queues:
                queues.find_queue(tx, queue, self._link.owner, (50, 50))  # it may be exclusive
            bindings.unbind(tx, exchange, QUEUE, queue, check_key(routing_key), arguments or {})

    def queue_delete(
        self,
        queue: str = "",
        if_unused: bool = False,
        if_empty: bool = False,
        nowait: bool = False,
    ) -> int:
        """Delete a queue; return the number of its ready messages, 0 if it did not exist."""
        with self._method() as tx:
            if queue not in tx.routes.queues:
                return 0
            found_queue = queues.find_queue(tx, queue, self._link.owner, (50, 40))
            return queues.delete_queue(tx, found_queue, if_unused=if_unused, if_empty=if_empty)

    def queue_purge(self, queue: str = "", nowait: bool = False) -> int:
        """Delete a queue's ready messages; return how many there were."""
        with self._method() as tx:
            found_queue = queues.find_queue(tx, queue, self._link.owner, (50, 30))
            return queued_messages.purge(tx, found_queue)
