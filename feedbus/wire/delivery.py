"""A delivery of the broker; every delivery can be read, even if its properties are not valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from feedbus.errors import LONGEST_WAIT_SECONDS
from feedbus.wire.constants import (
    ATTEMPT,
    DEATHS_BEFORE,
    EXPIRATION,
    KEY,
    OF_FAILURES,
    PRIORITY,
    PUBLISHED_AT,
    RECORD_COUNT,
    RUN,
    SEALED,
    SENT_AT,
    SHORT_TEXT_BYTES,
    TIMER_TARGET,
    UNIDENTIFIED,
    USER_ID,
)
from feedbus.wire.derived_ids import derived_id, is_id, is_of_deaths, is_short_text
from feedbus.wire.message_in_message import open_sealed

if TYPE_CHECKING:
    from feedbus.clock import Clock

# Any program can write a header. A number in a header is ignored if it is above its limit.
MAX_RECORDS = 1_000_000
MAX_ATTEMPTS = 2**31
HIGHEST_PRIORITY = 255
# A time in a header is ignored if it is outside of these years. Such a time is wrong, or is not in
# microseconds.
EARLIEST_MICROSECONDS = 946_684_800_000_000  # 2000
LATEST_MICROSECONDS = 4_102_444_800_000_000  # 2100
AHEAD_SECONDS = 60.0  # a time in the future is valid up to this limit: clocks of hosts differ
# A time in the past is valid up to this limit: twice the longest delay.
LONGEST_LAG_SECONDS = 2.0 * LONGEST_WAIT_SECONDS
# The properties that become headers when a message fails. A dead letter must not expire, and
# RabbitMQ accepts only the user id of the connection.
AS_HEADERS = {"expiration": EXPIRATION, "user_id": USER_ID}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was delivered and is not settled yet: neither acknowledged nor rejected.

    Attributes:
        tag: the delivery tag, by which the delivery is settled.
        body: the bytes, as they were published.
        content_type: the content type of the body, if the publisher has set it.
        message_id: the id that the publisher gave. If the publisher gave no valid id, feedbus
            derives an id from the content of the message. A derived id is the same at each
            redelivery.
        exchange: the name of the exchange on the broker.
        routing_key: the routing key of this delivery. Bytes that are not UTF-8 are lone surrogates
            in this text, as Python's error handler "surrogateescape" makes them.
        headers: the headers of the publisher and of feedbus.
        redelivered: whether the broker delivered the message before.
        consumer_tag: the tag of the subscription.
        properties: maps the names of AMQP's properties, as py-amqp writes them, to the values that
            the publisher gave.
        undecodable: error texts, one for each field of the message that cannot be decoded, such as
            "the routing key is not UTF-8: …". No handler receives a message that has any.
        identified: whether the publisher gave a valid message id.
        retry_id: the message id of a retry or dead letter of this message; "" if it is the same
            as `message_id`.

    """

    tag: int
    body: bytes
    content_type: str | None
    message_id: str
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    redelivered: bool
    consumer_tag: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)
    undecodable: Sequence[str] = ()
    identified: bool = True
    retry_id: str = ""

    @classmethod
    def of(cls, message: Any) -> Delivery:
        """Return the delivery for a message that a channel has delivered.

        The delivery of a retry, dead letter or delayed message has the properties of the original
        message.

        Args:
            message: a message of py-amqp; the channels of all brokers deliver such messages.
        """
        info, properties, body = message.delivery_info, message.properties, message.body
        if not isinstance(body, bytes):
            body = str(body).encode(errors="backslashreplace")
        undecodable: Sequence[str] = getattr(message, "undecodable", ())
        headers = properties.get("application_headers")
        if not isinstance(headers, dict):
            headers = {}
        message_id, given = properties.get("message_id"), True
        if headers and (ATTEMPT in headers or TIMER_TARGET in headers):
            given = UNIDENTIFIED not in headers
            properties, headers, body, undecodable = _restore(
                properties, headers, body, undecodable
            )
        elif UNIDENTIFIED in headers:  # a requeued dead letter
            given = False
            properties = {name: each for name, each in properties.items() if name != "message_id"}
        if not is_id(message_id):
            given = False
            message_id = derived_id(body, info.get("routing_key", ""), properties, headers)
        content_type = properties.get("content_type")
        return cls(
            message.delivery_tag,
            body,
            content_type if isinstance(content_type, str) else None,
            message_id,
            info.get("exchange", ""),
            info.get("routing_key", ""),
            headers,
            bool(info.get("redelivered")),
            info.get("consumer_tag", ""),
            properties,
            undecodable,
            given,
        )

    @property
    def record_count(self) -> int:
        """The number of records, from the headers of the delivery.

        1 if no valid header contains it.
        """
        count = self.headers.get(RECORD_COUNT, 1)
        return count if type(count) is int and 0 < count <= MAX_RECORDS else 1

    @property
    def published_at_microseconds(self) -> int | None:
        """When the message was first published, in microseconds since 1970.

        None if it is not known. A retry and a requeued dead letter keep this time.
        """
        return moment_of(self.headers.get(PUBLISHED_AT))

    @property
    def sent_again(self) -> bool:
        """Whether the delivery is a retry or a requeued dead letter."""
        return SENT_AT in self.headers

    def lag_seconds(self, now_microseconds: int) -> float | None:
        """Return the seconds since the message was sent; None if not known.

        For a retry or a requeued dead letter, return the seconds since it was sent again.

        Args:
            now_microseconds: the time now, in microseconds since 1970.
        """
        sent_at = self.headers.get(SENT_AT if self.sent_again else PUBLISHED_AT)
        return seconds_since(sent_at, now_microseconds)

    def age_seconds(self, now_microseconds: int) -> float | None:
        """Return the seconds since the message was first published; None if not known.

        Args:
            now_microseconds: the time now, in microseconds since 1970.
        """
        return seconds_since(self.headers.get(PUBLISHED_AT), now_microseconds)

    def expired(self, clock: Clock) -> bool:
        """Whether this is a delayed message that has expired, according to the clock.

        The broker applies the expiration of every other message. A message that has failed once
        does not expire any more.
        """
        if TIMER_TARGET not in self.headers or ATTEMPT in self.headers:
            return False
        milliseconds = self.properties.get("expiration")
        age = self.age_seconds(clock.wall_nanoseconds() // 1000)
        if age is None or not isinstance(milliseconds, str) or not milliseconds.isdecimal():
            return False
        return age * 1000 >= int(milliseconds)

    @property
    def attempts(self) -> int:
        """How often the handler, or the validation, has failed for this message."""
        count = self.headers.get(ATTEMPT, 0)
        return count if type(count) is int and 0 <= count < MAX_ATTEMPTS else 0

    @property
    def run(self) -> int:
        """The number of the record's failures after which messages of a handler were sent.

        Usually, the messages that a failed call has published are discarded. They are sent in two
        cases: a batch handler has published messages for the record, and the verdict of this
        handler on the record was Retry or Reject; or a dead handler has published messages for the
        record. The ids of later messages for the record depend on this number. So the later
        messages are not mistaken for repetitions of the earlier ones.
        """
        count = self.headers.get(RUN, 0)
        return count if type(count) is int and 0 <= count < MAX_ATTEMPTS else 0

    @property
    def original_key(self) -> str:
        """The routing key with which the message was first published."""
        key = key_of(self.headers, self.routing_key)
        return key if is_short_text(key) else self.routing_key


def moment_of(value: object) -> int | None:
    """Return the time in a header, in microseconds since 1970; None if the value is not a time.

    Args:
        value: the value of the header. It counts as a time if it is from 2000 to 2099.

    """
    if type(value) is int and EARLIEST_MICROSECONDS <= value < LATEST_MICROSECONDS:
        return value
    return None


def seconds_since(value: object, now_microseconds: int) -> float | None:
    """Return the seconds since the time in a header; None if the time is not plausible.

    Any program can write a header. A time more than 60 s in the future, or longer ago than a
    message can wait, is ignored.

    Args:
        value: the value of the header; a valid value is in microseconds since 1970.
        now_microseconds: the time now, in microseconds since 1970.
    """
    moment = moment_of(value)
    if moment is None:
        return None
    seconds = (now_microseconds - moment) / 1_000_000
    return max(seconds, 0.0) if -AHEAD_SECONDS <= seconds <= LONGEST_LAG_SECONDS else None


def key_of(headers: Mapping[str, Any], otherwise: str) -> str:
    """Return the routing key with which a failed message was first published.

    Args:
        headers: the headers of the message.
        otherwise: the result if no header contains the key.

    """
    return text_of(headers[KEY]) if KEY in headers else otherwise


def text_of(value: object) -> str:
    """Return the value of a header as text; bytes that are not UTF-8 become lone surrogates."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _restore(
    properties: Mapping[str, Any],
    headers: Mapping[str, Any],
    body: bytes,
    undecodable: Sequence[str],
) -> tuple[dict[str, Any], dict[str, Any], bytes, Sequence[str]]:
    """Restore the published properties, headers and body of a message that failed or was delayed.

    Args:
        properties: the properties of the message.
        headers: the headers of the message.
        body: the body of the message; in a sealed message, it contains the original message.
        undecodable: error texts, one for each part of the message that cannot be decoded.

    Returns:
        The properties; the headers, including the headers that feedbus added when the message
        failed or was delayed; the body; the error texts, for a sealed message those of the original
        message.

    """
    added = {name: value for name, value in headers.items() if name in OF_FAILURES or name == RUN}
    if properties.get("content_type") == SEALED:
        restored_properties, body, undecodable = open_sealed(body)
        restored_headers = restored_properties.get("application_headers")
        restored_headers = restored_headers if isinstance(restored_headers, dict) else {}
        if UNIDENTIFIED not in added and "message_id" in properties:
            restored_properties.setdefault("message_id", properties["message_id"])
    else:
        restored_properties = dict(properties)
        # The broker adds such headers, too, when a retry leaves its retry queue.
        restored_headers = {name: each for name, each in headers.items() if not is_of_deaths(name)}
        if UNIDENTIFIED in added:
            restored_properties.pop("message_id", None)
    deaths = added.get(DEATHS_BEFORE)
    if isinstance(deaths, dict):
        restored_headers |= deaths
    for name, header in AS_HEADERS.items():
        # A longer text is not from a property: a program has written the header.
        text = text_of(added.get(header, ""))
        if header in added and len(text.encode(errors="replace")) <= SHORT_TEXT_BYTES:
            restored_properties[name] = text
    priority = added.get(PRIORITY)
    if type(priority) is int and 0 <= priority <= HIGHEST_PRIORITY:
        restored_properties["priority"] = priority
    return restored_properties, {**restored_headers, **added}, body, undecodable
