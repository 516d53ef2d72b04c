"""What a test has observed: published records, and records that handlers received."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from typing import Any

from feedbus.broker import timer
from feedbus.broker.refused_messages import Refusal
from feedbus.bus.sender import Sender
from feedbus.codecs import Codecs, reads_of
from feedbus.errors import InvalidBody
from feedbus.handling.handlers import Handler
from feedbus.printable import shortened
from feedbus.records import Records
from feedbus.records.packs import pack_of_one
from feedbus.records.raw_payload import RAW
from feedbus.topology import Consumer, Topology
from feedbus.wire import Outgoing
from feedbus.wire.constants import EXPIRATION, OWN, PRIORITY
from feedbus.wire.message_options import Envelope

# The largest number of characters of a value in repr(). A payload of a test is rarely longer, so
# pytest can show the difference between two records.
SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Published:
    """A record that was published in a test.

    TestSystem.published() returns such records, and the attribute RecordingBus.published has them.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        key: the routing key.
        payload: the payload in its JSON form; the text or bytes of a body that is not JSON.
        message_id: the id of the record; "" on a RecordingBus, which sends nothing.
        options: the checked options of publish(): headers, priority, expires and delay. The last
            two are in seconds.
    """

    exchange: str
    key: str
    payload: dict[str, Any]
    message_id: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the fields with only the beginning of long values.

        An empty message id and empty options are left out.
        """
        return _shown(self)


@dataclass(frozen=True, slots=True)
class Handled:
    """A record that a handler received in a test; TestSystem.handled() returns it.

    Attributes:
        queue: the name of the queue in topology.toml.
        consumer: the name of the consumer: the name of the queue, or of the shard.
        payload: the record, as the handler got it.
        error: the exception or verdict of the handler for this record; None for success.
    """

    queue: str
    consumer: str
    payload: Any
    error: BaseException | None = None

    def __repr__(self) -> str:
        """Return the fields with only the beginning of long values.

        The error is left out if it is None.
        """
        return _shown(self)


def _shown(observed: Published | Handled) -> str:
    values = {each.name: getattr(observed, each.name) for each in fields(observed)}
    shown = ", ".join(
        f"{name}={shortened(repr(value), SHOWN_CHARACTERS)}"
        for name, value in values.items()
        if value or name not in {"message_id", "options", "error"}
    )
    return f"{type(observed).__name__}({shown})"


class RecordingSender(Sender):
    """Sends messages for a TestSystem, and records the messages that the broker has accepted.

    Args:
        topology: the topology of the system.
        published: the list to which each accepted record is appended.
    """

    def __init__(self, topology: Topology, published: list[Published]) -> None:
        """Create the sender; send() appends the accepted records to the list `published`."""
        super().__init__(topology, nacked_seconds=0)
        self._published = published
        self._codecs = Codecs.of(topology)
        self._exchanges = topology.exchanges.keys()

    def send(self, messages: Iterable[Outgoing]) -> list[Refusal]:
        """Send messages in order, and return the messages that the broker did not accept.

        If the broker accepts a message of a test or of a handler, the records of the message are
        appended to the list `published`. Retries and dead letters are not appended.
        """
        sent = list(messages)
        refusals = super().send(sent)
        refused = {id(refusal.message) for refusal in refusals}
        # The records of a pack can be sent again as single messages; see Refusal.pack.
        refused_records = {(id(each.pack), each.message.message_id) for each in refusals}
        for message in sent:
            # Other messages are retries, dead letters and waiting records: their records were
            # published before.
            if id(message) not in refused and message.counted_as in self._exchanges:
                self._published += (
                    record
                    for record in self._records(message)
                    if (id(message), record.message_id) not in refused_records
                )
        return refusals

    def _records(self, message: Outgoing) -> Iterable[Published]:
        """Yield the records of a message; a body that is not JSON is one record."""
        content = (message.body, message.content_type, message.message_id, message.routing_key)
        reads = reads_of(message.content_type or "")
        try:
            pack = self._codecs.read(*content, headers=message.headers, reads=reads)
        except InvalidBody:  # the body was published unchanged, so it need not be valid
            pack = pack_of_one(message.message_id, message.routing_key, {RAW: message.body})
        options = _options(message)
        for index in range(len(pack)):
            payload = dict(pack.payload(index))
            shown = payload.get(RAW, payload)
            yield Published(message.counted_as, pack.key(index), shown, pack.ids[index], options)


def _options(message: Outgoing) -> Mapping[str, Any]:
    """Return the options with which a message was published; see Published."""
    headers = {name: each for name, each in message.headers.items() if not name.startswith(OWN)}
    expiration = message.headers.get(EXPIRATION, message.properties.get("expiration"))
    expires = int(expiration) if expiration else None
    priority = message.headers.get(PRIORITY, message.properties.get("priority"))
    delay = timer.delay_milliseconds_of(message.headers) or None
    return Envelope(headers, priority, expires, delay).options()


def watched(handler: Handler, consumer: Consumer, handled: list[Handled]) -> Handler:
    """Return a handler that calls another handler, and appends the records to a list.

    A TestSystem puts it in place of each handler.

    Args:
        handler: the handler to call.
        consumer: the consumer of the handler's queue.
        handled: the list; it gets a Handled for each record of a call, after the call.
    """
    function: Callable[..., Any] = handler.function

    def note(argument: Any, records: Sequence[Any], error: BaseException | None) -> None:
        verdicts = argument.verdicts if isinstance(argument, Records) else {}
        handled.extend(
            Handled(consumer.queue.name, consumer.name, payload, error or verdicts.get(index))
            for index, payload in enumerate(records)
        )

    @contextmanager
    def noting(argument: Any) -> Iterator[None]:
        records: Sequence[Any] = list(argument) if handler.batch else [argument]
        try:
            yield
        except BaseException as error:
            note(argument, records, error)
            raise
        note(argument, records, None)

    @wraps(function)
    def watching(argument: Any, *rest: Any, **named: Any) -> Any:
        with noting(argument):
            return function(argument, *rest, **named)

    @wraps(function)
    async def watching_async(argument: Any, *rest: Any, **named: Any) -> Any:
        with noting(argument):
            return await function(argument, *rest, **named)

    either: Callable[..., Any] = watching_async if handler.is_async else watching
    return replace(handler, function=either)
