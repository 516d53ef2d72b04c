"""The dead handler: a project's function that is called before a record becomes a dead letter."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from feedbus.bus.collecting_bus import CollectingBus
from feedbus.bus.sender import Sender
from feedbus.codecs import Codecs
from feedbus.dead_letters import letters
from feedbus.dead_letters.letters import DeadLetter
from feedbus.dispatch.failure_policy import Decision
from feedbus.dispatch.publications import Publications
from feedbus.errors import InvalidBody, Outage, StoreOutage, described
from feedbus.handling.dead_handlers import DeadLetterFunction
from feedbus.handling.handlers import check_returned, refuse_in_transaction
from feedbus.handling.imported_objects import resolve_object
from feedbus.handling.parameters import GivenDeadLetter
from feedbus.handling.resources import Resources
from feedbus.logs import EventLog
from feedbus.process.fork_safety import end_fork
from feedbus.records import Records
from feedbus.records.batch import Chunk
from feedbus.records.ids import Ids
from feedbus.records.message import Message
from feedbus.store import NoStore, Store
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import KEY, REASON
from feedbus.wire.failed_messages import reason_text

events = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetterDelivery:
    """The delivery of a failed record; message() returns the Message for the dead handler.

    An object is created for each dead letter that the dead handler gets.

    Attributes:
        consumer: the consumer that handled the record.
        delivery: the delivery of the record.
        message_id: the id of the dead letter.
        routing_key: the routing key with which the record was published.

    """

    consumer: Consumer
    delivery: Delivery
    message_id: str
    routing_key: str

    @property
    def run(self) -> int:
        """How often the record has failed and messages published for it were sent anyway.

        Usually the number is 0: the messages of a failed call are discarded. Delivery.run lists the
        cases in which they are sent. The ids of later messages for the record depend on the number.
        So they differ from the ids of the messages that were sent.
        """
        return self.delivery.run

    def message(self, row: int) -> Message:
        """Return the properties of the dead letter, as the dead handler gets them.

        feedbus calls this if a parameter of the dead handler requests the Message.

        Args:
            row: an index that has no effect, because there is only one record.

        """
        del row
        return Message.of(
            self.delivery,
            routing_key=self.routing_key,
            message_id=self.message_id,
            queue=self.consumer.queue.name,
            consumer=self.consumer.name,
        )


class DeadHandler:
    """Calls the function of the project that a queue names as `dead_handler`.

    The dispatch of a consumer has one DeadHandler object if the queue sets `dead_handler`.
    """

    def __init__(  # noqa: PLR0913 -- its parts, all of which are needed
        self,
        topology: Topology,
        consumer: Consumer,
        sender: Sender,
        store: Store,
        leftovers: LeftoverRows | None,
        *,
        resources: Resources,
    ) -> None:
        """Create the dead handler, and import the project's function.

        Args:
            topology: the topology of the system.
            consumer: the consumer whose dead letters the function gets.
            sender: sends the messages that the function publishes.
            store: the store in whose transactions the function is called.
            leftovers: the leftover rows of the outbox, which are sent before later messages; None
                if the queue does not set `once`.
            resources: has the resources that the function requests.

        Raises:
            UsageError: the function cannot be imported, or a parameter requests an unknown value.

        """
        self._pid = os.getpid()
        self._codecs = Codecs.of(topology)
        self._consumer = consumer
        self._sender = sender
        self._store = store
        self._leftovers = leftovers
        self._name = consumer.queue.dead_handler or ""
        function = resolve_object(self._name, topology.root)
        dead_letter_function = DeadLetterFunction.of(function, store.session_type)
        if not isinstance(store, NoStore):
            refuse_in_transaction(function)
        resources.request(dead_letter_function.parameters)
        self._resources = resources
        self._record_loader = dead_letter_function.record_loader
        self._is_async = dead_letter_function.is_async
        self._function = function
        self._call = dead_letter_function.parameters.call_of(function, resources.value_of)

    def call_before(self, delivery: Delivery, decision: Decision) -> Decision:
        """If the decision is a new dead letter, call the function; return what to carry out.

        If the function raises an exception, the returned decision has a dead letter whose reason
        includes this exception. If the function publishes messages, the returned dead letter has a
        run (see Delivery.run) that is higher by 1. So if the dead letter is requeued and fails
        again, the function's messages get other ids.

        Args:
            delivery: the delivery of the failed record.
            decision: the decision on the record.

        Raises:
            Outage: something that the function needs is unavailable; the dead letter must not be
                sent yet.

        """
        message = decision.message
        if message is None or not decision.is_dead_letter or decision.dead_handler_called:
            return decision
        decision = replace(decision, dead_handler_called=True)
        try:
            has_published = self._handle(delivery, message)
        except (Outage, KeyboardInterrupt):
            raise
        except BaseException as error:
            if self._store.is_outage(error):
                msg = f"store: {error}"
                raise StoreOutage(msg) from error
            failed = described(error)
            events.error(
                "dead_handler_failed",
                "the dead handler raised an exception; the message becomes a dead letter anyway,"
                " and its reason includes this exception",
                consumer=self._consumer.name,
                handler=self._name,
                message_id=message.message_id,
                error=failed,
                exc_info=error,
            )
            reason = f"{message.headers[REASON]}; dead_handler {self._name} failed: {failed}"
            headers = {**message.headers, REASON: reason_text(reason)}
            return replace(decision, message=replace(message, headers=headers))
        return decision.after_run(delivery) if has_published else decision

    def _handle(self, delivery: Delivery, message: Outgoing) -> bool:
        """Call the function in a transaction, and send the messages that it publishes.

        Return whether it has published any.

        Args:
            delivery: the delivery of the failed record.
            message: the dead letter, before it is sent.

        """
        queue = self._consumer.queue
        letter = letters.of(queue, message, delivery)
        arguments = self._arguments(letter)
        if not arguments:
            events.info(
                "dead_handler_skipped",
                "the dead handler was not called, because the message is not valid for the type of"
                " the dead handler's parameter; the message becomes a dead letter",
                consumer=self._consumer.name,
                handler=self._name,
                message_id=message.message_id,
                reason=letter.reason,
            )
            return False
        failed_delivery = DeadLetterDelivery(
            self._consumer, delivery, message.message_id, str(message.headers[KEY])
        )
        # The ids of the messages that the function publishes are derived from the id with "/dead".
        # The ids of the handler's messages are derived from the id of the record. So a message of
        # the function never has the id of a message of the handler. If the dead letter is requeued
        # and becomes a dead letter again, its run is higher, so the messages get other ids.
        cause = f"{message.message_id}/dead" + (f"/{delivery.run}" if delivery.run else "")
        records = Records(_single_chunk(cause), [failed_delivery])
        with Publications(self._sender, self._store, self._leftovers) as publications:
            with publications.call(in_transaction=True) as session:
                try:
                    bus = CollectingBus(
                        records,
                        publications.collect,
                        self._sender.encoder.shard_count,
                        queue=self._sender.queue_of_ids(queue.name),
                    )
                    arguments_offered = GivenDeadLetter(bus, session, records, letter)
                    if self._is_async:
                        seconds = queue.handler_timeout_seconds
                        self._resources.run(self._call_async(arguments, arguments_offered), seconds)
                    else:
                        for each in arguments:
                            check_returned(self._function, self._call(each, arguments_offered))
                        bus.flush()
                finally:
                    if os.getpid() != self._pid:  # the function has forked: this is the new process
                        end_fork()
            has_published = bool(publications)
            publications.send()
        return has_published

    async def _call_async(self, arguments: Sequence[Any], given: GivenDeadLetter) -> None:
        for each in arguments:
            result = await cast("Coroutine[Any, Any, object]", self._call(each, given))
            check_returned(self._function, result)
        # The bus refuses messages from now on. No other task of the loop runs before this call: a
        # task that the function has started must not publish any more.
        given.bus.flush()

    def _arguments(self, letter: DeadLetter) -> Sequence[Any]:
        """Return the argument of each call: the DeadLetter, or each of the records in it.

        The result is empty if the function takes records, but the body is not valid for their type.
        """
        if self._record_loader is None:
            return [letter]
        try:
            pack = self._codecs.read(
                letter.body,
                letter.content_type,
                letter.message_id,
                letter.key,
                content_encoding=letter.delivery.properties.get("content_encoding"),
                headers=letter.delivery.headers,
                reads=self._record_loader.reads,
            )
        except InvalidBody:
            return []
        chunk = self._record_loader.load(pack).chunk
        return [chunk.row(index) for index in range(len(chunk))]


def _single_chunk(message_id: str) -> Sequence[Chunk]:
    return [Chunk(Ids(message_id, None), {}, {})]
