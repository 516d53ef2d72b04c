"""feedbus publish: publish messages from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

import click

from feedbus.cli import Context
from feedbus.cli.name_completion import EXCHANGE
from feedbus.errors import UsageError
from feedbus.units import counted

Pair = tuple[Mapping[str, Any], str]


@click.command(
    "publish",
    epilog="""\b
Examples:
  feedbus publish publish_tweet --json '{"id": 1, "author": "ann", …}'
  feedbus publish update_feed --file records.jsonl --key-field followerId
  generate | feedbus publish send_notification --key email --file -
""",
)
@click.argument("exchange", type=EXCHANGE)
@click.option("--key", default="", help="The routing key of every message.")
@click.option("--key-field", help="The field of each message that is its routing key.")
@click.option("--json", "text", help="One message: a JSON object.")
@click.option(
    "--file",
    type=click.File("rb"),
    help="A file with one JSON object on each line; - is standard input.",
)
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 -- an option each
    context: Context,
    exchange: str,
    key: str,
    key_field: str | None,
    text: str | None,
    file: IO[bytes] | None,
) -> None:
    """Publish to EXCHANGE and wait until the broker has confirmed each message.

    If no queue would have received a message, the broker returns it, and the exit code is 1.
    """
    from feedbus.bus import connect

    if (text is None) == (file is None):
        msg = f"expected either --json or --file, got {'neither' if text is None else 'both'}"
        raise click.UsageError(msg)
    if key and key_field:
        msg = "expected either --key or --key-field, got both"
        raise click.UsageError(msg)
    topology = context.load()
    topology.exchange(exchange)
    lines = [text.encode()] if text is not None else file or []
    pairs = _counted(_pairs(lines, key, key_field))
    with connect(topology) as bus:
        count = bus.publish_many(exchange, pairs)
    click.echo(f"{counted(count, 'message')} published to {exchange}")


def _pairs(lines: Any, key: str, key_field: str | None) -> Iterator[Pair]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            payload = json.loads(line)
        except (ValueError, RecursionError) as error:
            msg = f"line {number}: expected a JSON object, got {_short(line)}: {error}"
            raise UsageError(msg) from error
        if not isinstance(payload, dict):
            msg = f"line {number}: expected a JSON object, got {_short(line)}"
            raise UsageError(msg)
        if key_field is not None and key_field not in payload:
            msg = f"line {number}: expected the field '{key_field}' of --key-field, got none"
            raise UsageError(msg)
        yield payload, (key if key_field is None else str(payload[key_field]))


def _counted(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """Show progress on a terminal."""
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
