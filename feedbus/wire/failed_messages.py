"""The properties and headers that a failed message keeps, and how a dead letter is requeued."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from feedbus.shortened_tracebacks import shortened_traceback
from feedbus.units import counted
from feedbus.wire.constants import (
    DEATHS,
    DEATHS_BEFORE,
    ERRORS_BYTES,
    GENERATION,
    OF_DEATHS,
    OF_DELIVERIES,
    OF_FAILURES,
    PUBLISHED_AT,
    REASON,
    REASON_BYTES,
    RECORD_COUNT,
    RUN,
    SEALED,
    SENT_AT,
    TRACEBACK_BYTES,
    UNIDENTIFIED,
)
from feedbus.wire.delivery import AS_HEADERS, Delivery
from feedbus.wire.derived_ids import is_of_deaths
from feedbus.wire.message_in_message import open_sealed
from feedbus.wire.outgoing_message import Outgoing

# The properties that are not in Outgoing.properties. Outgoing has a field for each of them, except
# delivery_mode, which always has the same value.
APART = frozenset({"content_type", "content_encoding", "application_headers", "delivery_mode"})

CUT = "...\n"  # replaces the beginning of a long traceback
# Headers of a pack that its records do not get when they become messages.
OF_PACKS = frozenset({RECORD_COUNT, GENERATION, UNIDENTIFIED})
# The headers that a message keeps if the broker refuses it with all its headers.
KEPT_ALWAYS = OF_FAILURES | {RECORD_COUNT, RUN}


def kept_properties(delivery: Delivery) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the properties and the headers that a retry or dead letter gets from a delivery.

    Both are mappings of names to values. If the broker dead-lettered the message before a consumer
    received it, the message has the broker's header x-death. If the handler then fails, the retry
    waits in a retry queue, from which the broker dead-letters it, too. RabbitMQ 4 overwrites
    x-death at this second time. So the first x-death is kept in a header of feedbus.
    """
    # A message id that is not valid is kept in the properties: a sealed message contains it.
    elsewhere = APART | AS_HEADERS.keys() | ({"message_id"} if delivery.identified else set())
    properties = {
        name: value for name, value in delivery.properties.items() if name not in elsewhere
    }
    headers = publisher_headers(delivery.headers)
    deaths = {name: headers.pop(name) for name in [*headers] if is_of_deaths(name)}
    if deaths:
        headers[DEATHS_BEFORE] = deaths
    for name, header in AS_HEADERS.items():
        if delivery.properties.get(name) is not None:
            headers[header] = delivery.properties[name]
    if not delivery.identified:
        headers[UNIDENTIFIED] = True
    return properties, headers


def publisher_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers of a delivery, without those that were added after its publishing.

    The headers that feedbus adds to failed and delayed messages are left out, and also the broker's
    counts of deliveries. The broker's headers about dead-lettering stay.
    """
    return {
        name: value
        for name, value in headers.items()
        if name not in OF_FAILURES and name not in OF_DELIVERIES
    }


def _died_elsewhere(headers: dict[str, Any], died_in: Callable[[str], bool]) -> dict[str, Any]:
    """Return headers without the broker's entries about dead-lettering from some queues.

    Args:
        headers: the headers of a dead letter.
        died_in: returns whether the entries about the queue of a given name are removed.

    """
    kept = dict(headers)
    for prefix in OF_DEATHS:
        if died_in(str(kept.get(f"{prefix}queue", ""))):
            kept = {name: value for name, value in kept.items() if not name.startswith(prefix)}
    deaths = kept.pop(DEATHS, None)
    if not isinstance(deaths, list):
        return kept if deaths is None else {**kept, DEATHS: deaths}
    kept_deaths = [
        death
        for death in deaths
        if not (isinstance(death, dict) and died_in(str(death.get("queue", ""))))
    ]
    return {**kept, DEATHS: kept_deaths} if kept_deaths else kept


def sent_back(
    delivery: Delivery, exchange: str, routing_key: str, *, died_in: Callable[[str], bool]
) -> Outgoing:
    """Return the message that requeues a dead letter in its original form.

    The new message keeps the time of its first publishing, if it is known. In this case, the
    message also gets the time of the requeue.

    Args:
        delivery: the dead letter.
        exchange: the exchange of the new message.
        routing_key: the routing key of the new message.
        died_in: returns whether the queue of a given name dead-letters its messages to the queue of
            this dead letter. The broker's entries about such queues are removed from the headers.

    """
    headers = _died_elsewhere(publisher_headers(delivery.headers), died_in)
    properties = {
        name: value
        for name, value in delivery.properties.items()
        if name not in APART and name != "message_id"
    }
    message_id = delivery.properties.get("message_id")
    return Outgoing(
        exchange,
        routing_key,
        delivery.body,
        delivery.properties.get("content_type"),
        message_id if isinstance(message_id, str) else "",
        headers,
        "requeue",
        properties,
        delivery.properties.get("content_encoding"),
        stamp=SENT_AT if PUBLISHED_AT in headers else None,
        records=delivery.record_count,
    )


def of_record(message: Outgoing) -> Outgoing:
    """Return a message for a record of a pack: a copy of the pack without the headers of packs.

    feedbus calls this if one record of the pack becomes a message, such as a dead letter. The
    caller sets the body, the message id and the key of the record.
    """
    headers = {name: value for name, value in message.headers.items() if name not in OF_PACKS}
    properties = {name: value for name, value in message.properties.items() if name != "message_id"}
    return replace(message, headers=headers, properties=properties, records=1)


def reason_text(reason: str) -> str:
    """Return the reason of a failure as the text of a header, cut after 1,000 bytes."""
    return _cut(reason, REASON_BYTES)


def traceback_text(error: BaseException) -> str:
    """Return the end of an exception's traceback as the text of a header of at most 4,096 bytes.

    The text contains no values of variables, and its calls are those of shortened_traceback().
    The message of each exception is shortened like a reason, so that there is room for the calls of
    the handler. The result is "" if the traceback cannot be formatted.
    """
    try:
        lines = shortened_traceback(error).format()
        parts = [_cut(line.rstrip("\n"), REASON_BYTES) for line in lines]
    except Exception:  # noqa: BLE001 -- a handler's own class may raise anything here
        return ""
    raw = "\n".join(parts).encode()
    if len(raw) <= TRACEBACK_BYTES:
        return raw.decode()
    end = raw[-(TRACEBACK_BYTES - len(CUT)) :]
    return CUT + end[end.find(b"\n") + 1 :].decode(errors="ignore")


def _cut(text: str, limit_bytes: int) -> str:
    """Return the beginning of a text, at most `limit_bytes`; lone surrogates become escapes."""
    raw = text[:limit_bytes].encode(errors="backslashreplace")
    return raw[:limit_bytes].decode(errors="ignore")


def errors_text(errors: Mapping[str, Sequence[str]]) -> str:
    """Return the errors of each field as the text of a header, in JSON.

    Fields that do not fit into 8,000 bytes are left out; the entry with the name "" then contains
    their number.

    Args:
        errors: maps the names of fields to the texts of their errors.
    """
    kept: dict[str, list[str]] = {}
    size = 2
    for field, texts in errors.items():
        entry = len(json.dumps({field: list(texts)}))
        if size + entry > ERRORS_BYTES:
            kept.setdefault("", []).append(f"and {counted(len(errors) - len(kept), 'more field')}")
            break
        kept[field] = list(texts)
        size += entry
    return json.dumps(kept)


def without_properties(message: Outgoing, why: str) -> Outgoing:
    """Return a copy of a retry or a dead letter with only its body and the headers of feedbus.

    If the message is sealed, the copy has the body of the original message.

    Args:
        message: the retry or dead letter, which the broker refused because of a property or header.
        why: the broker's reason for the refusal.

    """
    headers = {name: value for name, value in message.headers.items() if name in KEPT_ALWAYS}
    left_out = f"the properties and other headers of the message are left out: {why}"
    reason = f"{headers.get(REASON, '')}; {left_out}"
    reduced = replace(message, headers={**headers, REASON: reason_text(reason)}, properties={})
    if message.content_type != SEALED:
        return reduced
    properties, body, _ = open_sealed(message.body)
    content_type = properties.get("content_type", "")
    return replace(
        reduced, body=body, content_type=content_type if content_type.isascii() else None
    )
