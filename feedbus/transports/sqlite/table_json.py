"""AMQP tables as JSON: headers, properties and arguments, as the broker file stores them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from amqp.exceptions import FrameSyntaxError

TAG = "\x00type"  # marks values that JSON cannot represent; a header normally has another name

Table = dict[str, Any]


def table_to_json(table: Mapping[str, Any]) -> str:
    """Return an AMQP table, such as headers or properties, as compact JSON.

    Times, decimals and bytes are marked, so that table_from_json() can restore their types.

    Raises:
        FrameSyntaxError: AMQP has no type for a value.
    """
    return json.dumps(dict(table), default=_mark, ensure_ascii=False, separators=(",", ":"))


def arguments_to_json(arguments: Mapping[str, Any]) -> str:
    """Return the arguments of an exchange, queue or binding as JSON, sorted by name.

    Equal arguments have equal texts. Broker files contain this text as part of the identity of a
    binding, so its form must not change.

    Raises:
        FrameSyntaxError: AMQP has no type for a value.
    """
    return json.dumps(dict(arguments), default=_mark, sort_keys=True)


def table_from_json(text: str) -> Table:
    """Return the AMQP table from the JSON text of table_to_json() or arguments_to_json()."""
    marked = TAG in text or "\\u0000type" in text
    table: Table = json.loads(text, object_hook=_unmark if marked else None)
    return table


def _mark(value: Any) -> dict[str, str]:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return {TAG: "time", "value": str(int(aware.timestamp()))}
    if isinstance(value, Decimal):
        return {TAG: "decimal", "value": str(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {TAG: "bytes", "value": base64.b64encode(value).decode()}
    msg = f"Table type {type(value)!r} not handled by amqp."
    raise FrameSyntaxError(msg)


def _unmark(found: dict[str, Any]) -> Any:
    kind, value = found.get(TAG), found.get("value")
    # A header of a publisher can have the same name as the mark. If the table is not one that
    # _mark() can write, it is returned unchanged.
    with contextlib.suppress(ValueError, TypeError, ArithmeticError, OSError):
        if kind == "time":  # without a time zone and in UTC, as py-amqp reads an AMQP timestamp
            return datetime.fromtimestamp(int(str(value)), UTC).replace(tzinfo=None)
        if kind == "decimal":
            return Decimal(str(value))
        if kind == "bytes":
            return base64.b64decode(str(value), validate=True)
    return found
