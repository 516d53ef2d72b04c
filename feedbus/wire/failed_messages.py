"""The properties and headers that a failed message keeps, and how a dead letter is requeued."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from traceback import TracebackException
from typing import Any

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
    SEALED,
    SENT_AT,
    TRACEBACK_BYTES,
    UNIDENTIFIED,
)
from feedbus.wire.delivery import AS_HEADERS, Delivery
from feedbus.wire.derived_ids import is_of_deaths
from feedbus.wire.message_in_message import open_sealed
from feedbus.wire.outgoing_message import Outgoing
from feedbus.wire.shortened_tracebacks import from_user_code

# The properties that are fields of Outgoing, so they are not in its other properties.
APART = frozenset({"content_type", "content_encoding", "application_headers", "delivery_mode"})

CUT = "...\n"  # replaces the beginning of a long traceback
# Headers of a pack that its records do not get when they become messages.
OF_PACKS = frozenset({RECORD_COUNT, GENERATION, UNIDENTIFIED})
KEPT_ALWAYS = OF_FAILURES | {RECORD_COUNT}


def kept_properties(delivery: Delivery) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the properties and headers that a failed message keeps.

    The broker's header about earlier dead-lettering of the message (x-death) is kept in a header of
    the framework, because RabbitMQ 4 overwrites x-death after a retry has waited.
    """
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
    """Return the headers of a delivery without the headers of feedbus and of the broker."""
    return {
        name: value
        for name, value in headers.items()
        if name not in OF_FAILURES and name not in OF_DELIVERIES
    }


def _died_elsewhere(headers: dict[str, Any], died_in: Callable[[str], bool]) -> dict[str, Any]:
    """Return headers without the broker's records about dead-lettering in some queues.

    Args:
        headers: the headers of a dead letter.
        died_in: returns whether the records about the queue of a given name are removed.

    """
    found = dict(headers)
    for group in OF_DEATHS:
        if died_in(str(found.get(f"{group}queue", ""))):
            found = {name: value for name, value in found.items() if not name.startswith(group)}
    deaths = found.pop(DEATHS, None)
    if not isinstance(deaths, list):
        return found if deaths is None else {**found, DEATHS: deaths}
    kept = [
        death
        for death in deaths
        if not (isinstance(death, dict) and died_in(str(death.get("queue", ""))))
    ]
    return {**found, DEATHS: kept} if kept else found


def sent_back(
    delivery: Delivery, exchange: str, routing_key: str, *, died_in: Callable[[str], bool]
) -> Outgoing:
    """Return the message that requeues a dead letter in its original form.

    If the dead letter has the time of its first publishing, the message also gets the time of the
    requeue.

    Args:
        delivery: the dead letter.
        exchange: the exchange of the new message.
        routing_key: the routing key of the message.
        died_in: returns whether the queue of a given name dead-letters its messages to the queue of
            this dead letter; the broker's records about such queues are removed.

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
    """Return a copy of a message without the headers that only packs have.

    It becomes the message of one record of the pack.
    """
    headers = {name: value for name, value in message.headers.items() if name not in OF_PACKS}
    properties = {name: value for name, value in message.properties.items() if name != "message_id"}
    return replace(message, headers=headers, properties=properties, records=1)


def reason_text(reason: str) -> str:
    """Return a reason as the text of a header, shortened if it is too long."""
    return _cut(reason, REASON_BYTES)


def traceback_text(error: BaseException) -> str:
    """Return the end of an exception's traceback as the text of a header.

    It contains no values of variables, and no calls of feedbus before those of the handler. The
    text of each exception is shortened like a reason, so that there is room for the calls of the
    handler. Returns "" if the traceback cannot be formatted.
    """
    try:
        lines = from_user_code(TracebackException.from_exception(error)).format()
        parts = [_cut(line.rstrip("\n"), REASON_BYTES) for line in lines]
    except Exception:  # noqa: BLE001 -- a handler's own class may raise anything here
        return ""
    raw = "\n".join(parts).encode()
    if len(raw) <= TRACEBACK_BYTES:
        return raw.decode()
    end = raw[-(TRACEBACK_BYTES - len(CUT)) :]
    return CUT + end[end.find(b"\n") + 1 :].decode(errors="ignore")


def _cut(text: str, limit_bytes: int) -> str:
    """Return the beginning of a text; characters that UTF-8 cannot represent become escapes."""
    raw = text[:limit_bytes].encode(errors="backslashreplace")
    return raw[:limit_bytes].decode(errors="ignore")


def errors_text(errors: Mapping[str, Sequence[str]]) -> str:
    """Return the errors of each field as the text of a header, in JSON.

    Fields that do not fit into ERRORS_BYTES are left out.
    """
    kept: dict[str, list[str]] = {}
    size = 2
    for field, texts in errors.items():
        entry = len(json.dumps({field: list(texts)}))
        if size + entry > ERRORS_BYTES:
            kept.setdefault("", []).append(f"and {len(errors) - len(kept)} more fields")
            break
        kept[field] = list(texts)
        size += entry
    return json.dumps(kept)


def without_properties(message: Outgoing, why: str) -> Outgoing:
    """Return a failed message that keeps only its body and the headers of feedbus.

    Args:
        message: the failed message; the broker refuses it with all its properties and headers.
        why: the broker's reason for the refusal.

    """
    headers = {name: value for name, value in message.headers.items() if name in KEPT_ALWAYS}
    reason = f"{headers.get(REASON, '')}; the rest of the dead letter is left out: {why}"
    bared = replace(message, headers={**headers, REASON: reason_text(reason)}, properties={})
    if message.content_type != SEALED:
        return bared
    properties, body, _ = open_sealed(message.body)
    content_type = properties.get("content_type", "")
    return replace(bared, body=body, content_type=content_type if content_type.isascii() else None)
