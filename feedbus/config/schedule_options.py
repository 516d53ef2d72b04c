"""The options of [schedules.NAME] in topology.toml, and their checks against other tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from marshmallow import ValidationError

from feedbus import topology
from feedbus.config.base_option import Option
from feedbus.config.broker_value_types import RoutingKey
from feedbus.config.draft import RING, Draft, Faults, Options
from feedbus.config.key_paths import KeyPath
from feedbus.config.option_types import Duration, Name, Text
from feedbus.config.problems import Fault, describe
from feedbus.config.table_types import TableSchema
from feedbus.cron import Cron, WrongCron
from feedbus.errors import UsageError
from feedbus.name_list import nearest
from feedbus.records.payloads import encode_record
from feedbus.records.raw_payload import RAW
from feedbus.topic_patterns import topic_matches, words_of
from feedbus.wire.content_types import bare_type, is_known
from feedbus.wire.header_checks import checked_headers

# Even without an outage, a moment of a schedule is fired a little late. With a shorter `catch_up`,
# such a moment would count as missed.
LEAST_CATCH_UP_SECONDS = 10.0


class CronLine(Text):
    """The type of the option `cron` of a schedule: a cron expression."""

    kind = "cron expression"
    example = "30 2 * * MON-FRI"
    expected = (
        'minute, hour, day of month, month and day of week, such as "*/5 * * * *" or'
        ' "30 2 * * MON-FRI" (a sixth field in front is the second)'
    )

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a cron expression, and return the expression.

        A cron expression that matches no date is not valid.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str):
            self.refuse()
        try:
            Cron(value).next_after(datetime.now(UTC))  # it also refuses days such as 30 February
        except WrongCron as error:
            reason = str(error)
        else:
            return value
        message = f"expected {self.expected}, got {describe(value)}: {reason[:1].lower()}"
        fault = Fault(message=message + reason[1:], expected=self.expected)
        raise ValidationError([fault])


class TimeZone(Text):
    """The type of the option `timezone` of a schedule: the name of a time zone, such as "UTC"."""

    kind = "time zone"
    example = "Europe/Berlin"
    expected = "a time zone such as 'Europe/Berlin' or 'UTC'"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is the name of a time zone, and return the name.

        The IANA database must have the name.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str):
            self.refuse()
        try:
            ZoneInfo(value)
        # ValueError and OSError: the name is a path outside of the database, or a folder in it.
        except (KeyError, ValueError, OSError):
            self.refuse(suggestion=nearest(value, sorted(available_timezones())))
        return value


class JsonTable(Option):
    """The type of an option whose value is a table that JSON can represent."""

    kind = "table"
    expected = "a table of values that JSON has"

    def read(self, value: Any) -> dict[str, Any]:
        """Check that a value of topology.toml is a table of JSON values, and return the table.

        Values that JSON does not have, such as dates, are refused.

        Raises:
            ValidationError: the value is not valid; the error contains a Fault for each mistake.

        """
        if not isinstance(value, dict):
            self.refuse()
        if errors := _not_json(value):
            raise ValidationError(errors)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "object"}


class HeaderTable(JsonTable):
    """The type of an option whose value is a table of message headers that publish() accepts."""

    expected = "a table of header names, each with a text, a number or a flag"

    def read(self, value: Any) -> dict[str, Any]:
        """Check that a value of topology.toml is a table of headers, and return the table.

        Headers that publish() would refuse are refused.

        Raises:
            ValidationError: the value is not valid; the error contains a Fault for each mistake.

        """
        if not isinstance(value, dict):
            self.refuse()
        wrong = {name: [fault] for name in value if (fault := _wrong_header(name, value[name]))}
        if wrong:
            raise ValidationError(wrong)
        try:
            return dict(checked_headers(value))
        except ValueError as error:  # the headers together are too large
            raise ValidationError([Fault(message=str(error))]) from error


def _wrong_header(name: str, value: Any) -> Fault | None:
    """Return the fault of a header; None if publish() accepts its name and its value."""
    try:
        checked_headers({name: value})
    except TypeError:
        return Fault(expected="a text, a number or a flag")
    except ValueError as error:
        return Fault(message=str(error).partition(": ")[2], at_key=True)
    return None


def _not_json(value: Any) -> Any:
    """Return the faults of the values that JSON cannot have, in a form for ValidationError.

    For a table or an array, the result maps the keys or indexes of the wrong values to their
    results. For another value, the result is a list with at most one fault.
    """
    if isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {key: found for key, inner in pairs if (found := _not_json(inner))}
    if isinstance(value, float) and not math.isfinite(value):
        return [Fault(expected="a finite number")]
    if value is None or isinstance(value, str | int | float):
        return []
    return [Fault(expected="a value that JSON can represent: write a date or a time as a text")]


def check_schedules(draft: Draft) -> Faults:
    """Yield the faults of the schedules in topology.toml.

    A schedule needs an operations process that fires it, a queue that receives its message, and a
    `catch_up` that is long enough.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        The path of each wrong value in topology.toml, with its fault: what is wrong.

    """
    schedules = draft.loaded.get("schedules", {})
    for name, options in schedules.items():
        path: KeyPath = ("schedules", name)
        yield from _exchange(draft, (*path, "exchange"), options)
        yield from _payload(draft, (*path, "payload"), options)
        if 0 < options.get("catch_up_seconds", math.inf) < LEAST_CATCH_UP_SECONDS:
            yield (*path, "catch_up"), Fault(expected='a duration of at least "10s"')
    if schedules and not draft.loaded.get("operations", {}).get("enabled", True):
        message = "the operations process fires the [schedules]: expected true, or no schedules"
        yield ("operations", "enabled"), Fault(message=message, expected="true")


def _exchange(draft: Draft, path: KeyPath, options: Options) -> Faults:
    """Yield a fault if the exchange of a schedule does not exist or does not suit the schedule.

    The exchange must publish JSON, and a queue must get messages with the schedule's routing key.
    On a ring, the schedule must set a key, because the key selects the shard.

    Args:
        draft: the loaded values of the file.
        path: the path of the option `exchange` of the schedule.
        options: the loaded options of the schedule.

    """
    declared = draft.report.document.get("exchanges")
    name = options.get("exchange")
    if name is None or not isinstance(declared, dict):
        return
    if name not in declared:
        expected = f"one of {', '.join(declared)}" if declared else "an exchange in [exchanges]"
        message = f"no exchange named '{name}'"
        suggestion = nearest(name, declared)
        yield path, Fault(message=message, expected=expected, suggestion=suggestion)
        return
    exchange = draft.loaded.get("exchanges", {}).get(name, {})
    content_type = exchange.get("content_type")
    if content_type is not None and is_known(content_type) and "json" not in content_type:
        message = f"'{name}' publishes {bare_type(content_type)}, and a schedule's payload is JSON"
        yield path, Fault(message=message, expected="an exchange whose messages are JSON")
    if exchange.get("type") == RING and not draft.report.has((*path[:-1], "key")):
        message = (
            f"the key selects the shard of '{name}': expected a key, got none; key = \"\" sends"
            " every message to the same shard"
        )
        yield (*path[:-1], "key"), Fault(message=message, expected="a routing key")
    if not exchange.get("external", False):
        yield from _key(draft, path, options)


def _payload(draft: Draft, path: KeyPath, options: Options) -> Faults:
    """Yield a fault if publish() would refuse the payload of a schedule.

    A codec of the project can change the payload, so its bodies are not checked.

    Args:
        draft: the loaded values of the file.
        path: the path of the option `payload` of the schedule.
        options: the loaded options of the schedule.

    """
    payload: Mapping[str, Any] = options.get("payload", {})
    exchange = draft.loaded.get("exchanges", {}).get(options.get("exchange"), {})
    content_type = exchange.get("content_type")
    if bare_type(content_type) in map(bare_type, draft.loaded.get("codecs", {})):
        return
    if RAW in payload:
        message = f"the field '{RAW}' is reserved for texts and bytes"
        yield (*path, RAW), Fault(message=message, expected="another name", at_key=True)
        return
    try:
        encode_record(payload)
    except UsageError as error:
        yield path, Fault(message=str(error))


def _key(draft: Draft, path: KeyPath, options: Options) -> Faults:
    """Yield a fault if the schedule's routing key matches no binding of a queue.

    Args:
        draft: the loaded values of the file.
        path: the path of the option `exchange` of the schedule.
        options: the loaded options of the schedule.

    """
    name, key = options["exchange"], options.get("key", "")
    queues = [one for one in draft.queues.values() if one.get("exchange") == name]
    kind = draft.exchange_type(options)
    if kind is None or receiving_queues(draft, options):
        return
    if kind not in {RING, "fanout"} and not all(queue.get("routing_keys") for queue in queues):
        return  # the missing or wrong binding keys of a queue are reported already
    at: KeyPath = (*path[:-1], "key" if "key" in options else "exchange")
    if not queues:
        fault = Fault(message=f"no queue is bound to '{name}'", expected="an exchange with queues")
        yield (*path[:-1], "exchange"), fault
        return
    keys = dict.fromkeys(each for queue in queues for each in queue.get("routing_keys", ()))
    shown = ", ".join(f"'{each}'" for each in keys) or "none"
    message = f"expected key to match a binding of '{name}' ({shown})"
    message += f", got '{key}'" if "key" in options else ", got no key"
    yield at, Fault(message=message, expected=f"a routing key that matches one of {shown}")


def receiving_queues(draft: Draft, options: Options) -> list[str]:
    """Return the queues whose bindings match the message of a schedule.

    All queues of a ring are returned, although the hash of the key selects one of them.

    Args:
        draft: the loaded values of topology.toml.
        options: the loaded options of the schedule.

    """
    kind = draft.exchange_type(options)
    key: str = options.get("key", "")

    def matches(binding_key: str) -> bool:
        if kind == "topic":
            return topic_matches(words_of(binding_key), words_of(key))
        return binding_key == key

    return [
        name
        for name, queue in draft.queues.items()
        if queue.get("exchange") == options["exchange"]
        and (kind in {RING, "fanout"} or any(map(matches, queue.get("routing_keys", ()))))
    ]


class ScheduleTable(TableSchema):
    """The schema of the tables [schedules.NAME] of topology.toml: each attribute is an option."""

    builds = topology.Schedule

    cron = CronLine(
        "The moments of the schedule: minute, hour, day of month, month, day of week. A sixth "
        "field in front is the second.",
        required=True,
    )
    timezone = TimeZone("The time zone of the cron expression, by its name in the IANA database.")
    exchange = Name(
        "The exchange that the message is published to.", required=True, example="orders"
    )
    key = RoutingKey(
        "The routing key of the message. On an exchange with shards it is needed, because it "
        "selects the shard."
    )
    payload = JsonTable(
        "The payload of the message. `feedbus check` validates it against the message type of the "
        "handler.",
        default="{}",
    )
    headers = HeaderTable(
        "The headers of the message, as publish() takes them.",
        default="{}",
        example={"source": "nightly"},
    )
    catch_up = Duration(
        "How late a missed moment may be fired, at least 10 seconds. Of several missed "
        "moments, only the latest is fired.",
        attribute="catch_up_seconds",
    )
