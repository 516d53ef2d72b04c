"""What becomes of a record that was not acknowledged: the retry ladder, then the dead letters."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedbus.broker.names import Names
from feedbus.errors import Drop, InvalidBody, Reject, Retry
from feedbus.metrics import Verdict
from feedbus.records.packs import Pack, encode_payload
from feedbus.topology import Consumer
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import (
    ATTEMPT,
    CONSUMER,
    ERRORS,
    EXCHANGE,
    FAILED_AT,
    JSON,
    KEY,
    PUBLISHED_AT,
    QUEUE,
    REASON,
)

REASON_LIMIT = 1000
MOST = 2**31  # attempts; a header that says otherwise is not ours


@dataclass(frozen=True, slots=True)
class Fate:
    """A record's verdict as metrics name it, and the message that carries it on, if one does.

    Attributes:
        verdict: reject, invalid, retry, dead_letter or drop.
        message: to the dead letters, or to where it waits for its next attempt.
        odd_delay_milliseconds: set when no ladder declares the delay, so it has to be declared.

    """

    verdict: Verdict
    message: Outgoing | None
    odd_delay_milliseconds: int | None = None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The retry ladder of one consumer."""

    names: Names
    consumer: Consumer

    def unreadable(self, delivery: Delivery, error: InvalidBody) -> Fate:
        """Dead-letter a body that is no record at all, as it came."""
        headers = self._headers(delivery, str(error), delivery.routing_key)
        headers[ERRORS] = json.dumps(error.errors)
        content_type = delivery.content_type or "application/octet-stream"
        return Fate(
            "invalid", self._dead(delivery.body, content_type, delivery.message_id, headers)
        )

    def lost(self, delivery: Delivery, reason: str) -> Fate:
        """Dead-letter a whole delivery, as it came."""
        headers = self._headers(delivery, reason, delivery.routing_key)
        content_type = delivery.content_type or "application/octet-stream"
        return Fate(
            "dead_letter", self._dead(delivery.body, content_type, delivery.message_id, headers)
        )

    def decide(self, delivery: Delivery, pack: Pack, row: int, error: BaseException) -> Fate:
        """Decide on one record of a delivery by what was raised for it."""
        if isinstance(error, Drop):
            return Fate("drop", None)
        reason = str(error) if isinstance(error, Reject | Retry | InvalidBody) else _told(error)
        headers = self._headers(delivery, reason, pack.key(row))
        if isinstance(error, InvalidBody):
            headers[ERRORS] = json.dumps(error.errors)
            return Fate("invalid", self._letter(pack, row, headers))
        if isinstance(error, Reject):
            return Fate("reject", self._letter(pack, row, headers))
        return self._again(delivery, pack, row, error, headers)

    def _again(
        self,
        delivery: Delivery,
        pack: Pack,
        row: int,
        error: BaseException,
        headers: dict[str, Any],
    ) -> Fate:
        ladder = self.consumer.queue.retry
        attempt = headers[ATTEMPT]
        if attempt > len(ladder.delays_seconds) and ladder.then != "repeat":
            if ladder.then == "drop":
                return Fate("drop", None)
            return Fate("dead_letter", self._letter(pack, row, headers))
        step = ladder.delays_seconds[min(attempt, len(ladder.delays_seconds)) - 1]
        asked = error.after_seconds if isinstance(error, Retry) else None
        milliseconds = max(1, round((step if asked is None else asked) * 1000))
        declared = {round(delay * 1000) for delay in ladder.delays_seconds}
        published_at = delivery.published_at_microseconds
        if published_at is not None:
            headers[PUBLISHED_AT] = published_at
        message = Outgoing(
            self.names.delay(self.consumer.queue, milliseconds),
            pack.key(row),
            encode_payload(pack.payload(row)),
            JSON,
            pack.ids[row],
            headers,
            "retry",
        )
        return Fate("retry", message, None if milliseconds in declared else milliseconds)

    def _letter(self, pack: Pack, row: int, headers: Mapping[str, Any]) -> Outgoing:
        return self._dead(encode_payload(pack.payload(row)), JSON, pack.ids[row], headers)

    def _dead(
        self, body: bytes, content_type: str, message_id: str, headers: Mapping[str, Any]
    ) -> Outgoing:
        dead = self.names.dead(self.consumer.queue)
        return Outgoing("", dead, body, content_type, message_id, headers, "dead-letter")

    def _headers(self, delivery: Delivery, reason: str, key: str) -> dict[str, Any]:
        earlier = delivery.headers.get(ATTEMPT, 0)
        return {
            ATTEMPT: (earlier if isinstance(earlier, int) and 0 <= earlier < MOST else 0) + 1,
            CONSUMER: self.consumer.name,
            EXCHANGE: self.consumer.queue.exchange,
            FAILED_AT: time.time_ns() // 1000,
            KEY: delivery.headers.get(KEY, key),
            QUEUE: self.consumer.queue.name,
            REASON: reason[:REASON_LIMIT].encode(errors="backslashreplace").decode(),
        }


def _told(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
