"""feedbus publish: publish messages from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from feedbus.cli import Context
from feedbus.cli.duration_option import DURATION
from feedbus.cli.interruption import reported
from feedbus.cli.name_completion import EXCHANGE
from feedbus.errors import PublishError, UsageError
from feedbus.name_list import expected_one_of
from feedbus.printable import printable
from feedbus.units import counted

if TYPE_CHECKING:
    from feedbus.bus import LiveBus
    from feedbus.topology import Topology
    from feedbus.wire.message_options import PublishOptions

Pair = tuple[Mapping[str, Any], str]


@click.command(
    "publish",
    epilog="""\b
Examples:
  feedbus publish publish_tweet --json '{"id": 1, "author": "ann", …}'
  feedbus publish update_feed --file records.jsonl --key-field followerId
  generate | feedbus publish send_notification --key email --file -
  feedbus publish send_notification --key email --json '{"id": 1, …}' --delay 30s --expires 10m
""",
)
@click.argument("exchange", type=EXCHANGE)
@click.option(
    "--key",
    help="The routing key of every message. An exchange with shards needs --key or --key-field.",
)
@click.option("--key-field", help="The field of each message that is its routing key.")
@click.option("--json", "text", help="One message: a JSON object.")
@click.option(
    "--file",
    type=click.File("rb"),
    help="A file with one JSON object on each line; - is standard input.",
)
@click.option(
    "--message-id",
    help="The id of the message. A queue with once = true handles only one message with this id.",
)
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=TEXT", help="A header of every message."
)
@click.option("--priority", type=click.IntRange(0, 255), help="The priority of every message.")
@click.option(
    "--expires",
    type=DURATION,
    help="How long a message may wait until a consumer takes it, such as 10m.",
)
@click.option("--delay", type=DURATION, help="How long feedbus delays every message, such as 30s.")
@click.pass_obj
def command(  # noqa: PLR0913 -- an option each
    context: Context,
    *,
    exchange: str,
    key: str | None,
    key_field: str | None,
    text: str | None,
    file: IO[bytes] | None,
    message_id: str | None,
    headers: tuple[str, ...],
    priority: int | None,
    expires: float | None,
    delay: float | None,
) -> None:
    """Publish to EXCHANGE and wait until the broker has confirmed each message.

    If no queue would have received a message, the broker returns it, and the exit code is 1. A
    message with --delay is not returned. If a line of --file cannot be read or published, the
    command publishes the lines before it, and ends with an error that names the line.
    """
    from feedbus.bus import connect
    from feedbus.records.publish_options import envelope_of

    if (text is None) == (file is None):
        msg = f"expected either --json or --file, got {'neither' if text is None else 'both'}"
        raise click.UsageError(msg)
    if key is not None and key_field:
        msg = "expected either --key or --key-field, got both"
        raise click.UsageError(msg)
    if message_id and text is None:
        msg = (
            "expected --message-id only with --json: a file can have many messages, and each needs"
            " an id of its own"
        )
        raise click.UsageError(msg)
    options: PublishOptions = {
        "headers": _headers(headers),
        "priority": priority,
        "expires": expires,
        "delay": delay,
    }
    try:
        plain = envelope_of(options) is None and not message_id
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    topology = context.load_with_same_broker()
    if topology.exchange(exchange).hashed and key is None and not key_field:
        msg = (
            f"expected --key or --key-field, got neither: the key selects the shard of '{exchange}'"
            " (--key '' sends every message to the same shard)"
        )
        raise click.UsageError(msg)
    lines = [text.encode()] if text is not None else file or []
    place = "--json" if file is None else f"{printable(file.name)}:{{}}"
    faults: list[UsageError] = []
    read = _checked(topology, exchange, _pairs(lines, key or "", key_field, place))
    pairs = _counted(_until_fault(read, faults))
    count = 0
    with (
        reported(lambda: _interrupted(count, file)),
        _with_count(lambda: _interrupted(count, file) if file is not None else ""),
        connect(topology) as bus,
    ):
        if plain:
            counts = _publish_together(bus, exchange, pairs)
        else:
            counts = _publish_each(bus, exchange, pairs, message_id, options)
        for published in counts:
            count += published
    for fault in faults:
        if file is None:
            raise fault
        msg = f"{fault}; published from the lines before it: {counted(count, 'message')}"
        raise UsageError(msg) from fault
    click.echo(f"{counted(count, 'message')} published to {exchange}")
    _warn_if_unread(topology)


@contextmanager
def _with_count(state: Callable[[], str]) -> Iterator[None]:
    """If the broker refuses messages in the `with` block, add a text to the error.

    Args:
        state: returns the text, which says how many messages were published; "" to add nothing.

    """
    try:
        yield
    except PublishError as error:
        if not state():
            raise
        msg = f"{error}; {state()}"
        raise UsageError(msg) from error


def _warn_if_unread(topology: Topology) -> None:
    """Print a note if no process on this host reads the embedded broker."""
    from feedbus.supervisor.broker_mismatch import unread_note

    if note := unread_note(topology):
        click.echo(printable(note), err=True)


def _headers(texts: tuple[str, ...]) -> dict[str, str] | None:
    """Return headers from texts of the form NAME=TEXT; None without texts."""
    for text in texts:
        if "=" not in text:
            msg = f"--header: expected NAME=TEXT, got '{text}'"
            raise click.UsageError(msg)
    return dict(text.split("=", 1) for text in texts) or None


def _publish_together(bus: LiveBus, exchange: str, pairs: Iterator[Pair]) -> Iterator[int]:
    """Publish up to PAIRS_AT_ONCE messages at a time; each time, yield how many were confirmed."""
    while published := bus.publish_many(exchange, islice(pairs, bus.PAIRS_AT_ONCE)):
        yield published


def _publish_each(
    bus: LiveBus,
    exchange: str,
    pairs: Iterator[Pair],
    message_id: str | None,
    options: PublishOptions,
) -> Iterator[int]:
    """Publish messages with options one at a time, because they are not put into packs.

    Yield 1 each time that the broker has confirmed a message.
    """
    for payload, key in pairs:
        bus.publish(exchange, payload, key, message_id=message_id, **options)
        yield 1


def _interrupted(count: int, file: IO[bytes] | None) -> str:
    """Return what an interrupted command has published, and how to continue it.

    Args:
        count: how many messages the broker has confirmed.
        file: the file of the messages; None if the message is an argument.

    """
    if file is None:
        return "the message may be published or not"
    first = f"the first {counted(count, 'message')}" if count else "no message"
    return (
        f"the broker has confirmed {first} of {printable(file.name)}, and some later ones may be"
        " published, too; to continue, publish the lines that follow"
    )


def _checked(
    topology: Topology, exchange: str, located: Iterator[tuple[str, Pair]]
) -> Iterator[Pair]:
    """Yield (payload, routing key) pairs, and check that each can be published.

    The bus publishes many pairs together, so its error for one of them would name no line.

    Args:
        topology: the topology with the exchange.
        exchange: the name of the exchange.
        located: the pairs, each after its place in the input.

    Raises:
        UsageError: a record cannot be published; the error names the place.

    """
    from feedbus.codecs import BodyEncoder
    from feedbus.records.publish_arguments import check_keys

    bodies, declared = BodyEncoder(topology), topology.exchange(exchange)
    for place, pair in located:
        payload, key = pair
        try:
            check_keys([key])
            bodies.encode(declared, payload)
        except UsageError as error:
            msg = f"{place}: {error}"
            raise UsageError(msg) from error
        yield pair


def _pairs(lines: Any, key: str, key_field: str | None, place: str) -> Iterator[tuple[str, Pair]]:
    """Yield the place of each line that is not empty, with its payload and routing key.

    Args:
        lines: lines of bytes, each with a JSON object.
        key: the routing key of all messages, if `key_field` is None.
        key_field: the field of each message that is its routing key, or None.
        place: the place for errors; a pair of braces in it stands for the number of the line.

    Raises:
        UsageError: a line is not a JSON object, or has no such field.

    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            payload = json.loads(line)
        except (ValueError, RecursionError) as error:
            msg = f"{place.format(number)}: expected a JSON object, got {_short(line)}: {error}"
            raise UsageError(msg) from error
        if not isinstance(payload, dict):
            msg = f"{place.format(number)}: expected a JSON object, got {_short(line)}"
            raise UsageError(msg)
        if key_field is not None and key_field not in payload:
            raise UsageError(_no_field(place.format(number), key_field, payload))
        pair = (payload, key if key_field is None else str(payload[key_field]))
        yield place.format(number), pair


def _until_fault(pairs: Iterator[Pair], faults: list[UsageError]) -> Iterator[Pair]:
    """Yield pairs until one cannot be read, so that all messages before it are published.

    Args:
        pairs: the pairs to read.
        faults: the error of the pair that cannot be read is added to this list.

    """
    try:
        yield from pairs
    except UsageError as error:
        faults.append(error)


def _no_field(place: str, key_field: str, payload: Mapping[str, Any]) -> str:
    """Return the error for a message without the field that --key-field names."""
    fields = [printable(each) for each in payload]
    expected = expected_one_of(key_field, fields, limit=20) if fields else "it has no fields"
    return f"{place}: the message has no field '{key_field}' for --key-field: {expected}"


def _counted(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """Yield the same pairs; on a terminal, show how many were read."""
    shown = sys.stderr.isatty()
    count = 0
    for count, pair in enumerate(pairs, start=1):
        yield pair
        if shown and count % 1000 == 0:
            click.echo(f"\r{count:,} messages read", nl=False, err=True)
    if shown and count >= 1000:  # noqa: PLR2004 -- where progress began
        click.echo(f"\r{count:,} messages read", err=True)


def _short(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}…")  # noqa: PLR2004 -- fits a line
