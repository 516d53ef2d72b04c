"""The options of a message, in addition to its payload and its routing key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from feedbus.wire.outgoing_message import Outgoing


class PublishOptions(TypedDict, total=False):
    """The keyword arguments of publish(); None means that the option is not set.

    Attributes:
        headers: maps each name to a text, a number, a flag or None.
        priority: a number from 0 to 255, for queues with the argument x-max-priority.
        expires: how long the message may wait in a queue: "10m", or seconds. If the message also
            has a delay, both times begin when the message is published. So the delay must be
            shorter.
        delay: how long feedbus delays the message: "30s", or seconds.

    """

    headers: Mapping[str, Any] | None
    priority: int | None
    expires: str | float | None
    delay: str | float | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The checked options of one call of publish().

    Attributes:
        headers: the publisher's headers, without the headers of feedbus.
        priority: the priority; None for a message without priority.
        expires_milliseconds: how long the message may wait in a queue; None if it never expires.
        delay_milliseconds: how long feedbus delays the message; None for no delay.

    """

    headers: Mapping[str, Any]
    priority: int | None
    expires_milliseconds: int | None
    delay_milliseconds: int | None = None

    def around(self, message: Outgoing) -> Outgoing:
        """Return a copy of a message with the headers, priority and expiration of these options.

        The delay is not applied here. A header that the message has already is kept.
        """
        properties = dict(message.properties)
        if self.priority is not None:
            properties["priority"] = self.priority
        if self.expires_milliseconds is not None:
            properties["expiration"] = str(self.expires_milliseconds)
        return replace(message, headers={**self.headers, **message.headers}, properties=properties)

    def options(self) -> PublishOptions:
        """Return the options as arguments of publish() that JSON can represent.

        The outbox stores the options in this form. Times are in seconds. Options that are not set
        are left out.
        """
        found = PublishOptions()
        if self.headers:
            found["headers"] = dict(self.headers)
        if self.priority is not None:
            found["priority"] = self.priority
        if self.expires_milliseconds is not None:
            found["expires"] = self.expires_milliseconds / 1000
        if self.delay_milliseconds is not None:
            found["delay"] = self.delay_milliseconds / 1000
        return found
