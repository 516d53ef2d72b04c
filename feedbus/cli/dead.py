"""feedbus dead: list, show, requeue, drop and purge dead letters."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from feedbus.cli import Context
from feedbus.cli.confirmation import confirm
from feedbus.cli.interruption import reported
from feedbus.cli.name_completion import QUEUE
from feedbus.errors import FeedbusError, UsageError
from feedbus.name_list import listed
from feedbus.printable import printable, printable_json
from feedbus.units import counted
from feedbus.wire.constants import OF_FAILURES

if TYPE_CHECKING:
    from feedbus.dead_letters.letters import DeadLetter
    from feedbus.topology import Queue, Topology

BODY_SHOWN = 10_000  # the largest number of bytes of a body that is printed


@click.group(
    "dead",
    epilog="""\b
Examples:
  feedbus dead list
  feedbus dead show update_feed a712307c1fe943fb899a2655beb82520.0-0
  feedbus dead requeue update_feed --all
  feedbus dead purge send_notification.sms --yes
""",
)
def command() -> None:
    """List, show, requeue, drop and purge dead letters."""


@command.command("list", epilog="\b\nExample:\n  feedbus dead list update_feed --limit 10 --json")
@click.argument("queue", type=QUEUE, required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many dead letters of each queue to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on each line.")
@click.pass_obj
def list_letters(context: Context, queue: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001 -- click passes a flag
    """List the dead letters of one QUEUE, or of all queues, one queue after the other.

    The oldest dead letter of each queue comes first. If a queue has more than --limit, a line on
    stderr says how many it has.
    """
    from feedbus.dead_letters import letters

    topology = context.load_with_same_broker()
    found: list[DeadLetter] = []
    totals: dict[str, int] = {}  # how many dead letters a queue has, if only some are shown
    with letters.open_channel(topology) as channel:
        for chosen in _queues(topology, queue):
            total = letters.count(channel, topology, chosen)
            if total > limit:
                totals[chosen.name] = total
            oldest = itertools.islice(letters.letters(channel, topology, chosen), limit)
            found += [letter for _, letter in oldest]
    for letter in found:
        click.echo(printable_json(_values(letter)) if as_json else _line(letter))
    for name, total in totals.items():
        click.echo(
            f"{name} has {total:,} dead letters, of which {limit:,} {'is' if limit == 1 else 'are'}"
            f" shown; `feedbus dead list {name} --limit {total}` shows all",
            err=True,
        )
    if not found and not as_json:
        click.echo("no dead letters")


@command.command(
    "show",
    epilog="""\b
Example:
  feedbus dead show update_feed a712307c1fe943fb899a2655beb82520.0-0
""",
)
@click.argument("queue", type=QUEUE)
@click.argument("message_id")
@click.pass_obj
def show(context: Context, queue: str, message_id: str) -> None:
    """Show one dead letter of QUEUE: its reason, traceback, errors of fields, and body.

    The output is a JSON object with the same fields as in `feedbus dead list --json`.
    """
    from feedbus.dead_letters import letters

    topology = context.load_with_same_broker()
    with letters.open_channel(topology) as channel:
        for _, letter in letters.letters(channel, topology, topology.queue(queue)):
            if letter.message_id == message_id:
                click.echo(printable_json(_values(letter), indent=2))
                return
    _refuse_missing(queue, [message_id])


@command.command(
    "requeue",
    epilog="""\b
Examples:
  feedbus dead requeue update_feed a712307c1fe943fb899a2655beb82520.0-0 \\
      a712307c1fe943fb899a2655beb82520.0-1
  feedbus dead requeue update_feed --all
""",
)
@click.argument("queue", type=QUEUE)
@click.argument("message_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Requeue all dead letters of the queue.")
@click.pass_obj
def requeue(
    context: Context,
    queue: str,
    message_ids: tuple[str, ...],
    everything: bool,  # noqa: FBT001 -- click passes a flag
) -> None:
    """Send dead letters of QUEUE back to QUEUE, as if they had just been published."""
    from feedbus.dead_letters import letters
    from feedbus.dead_letters.requeue import Requeue

    if bool(message_ids) == everything:
        got = "both" if everything else "neither"
        msg = f"expected either the ids of dead letters or --all, got {got}"
        raise click.UsageError(msg)
    topology = context.load_with_same_broker()
    chosen = topology.queue(queue)
    missing = dict.fromkeys(message_ids)
    sent = 0

    def send_back(letter: DeadLetter) -> None:
        nonlocal sent
        back.send(letter)
        missing.pop(letter.message_id, None)
        sent += 1

    with (
        reported(lambda: _interrupted(sent, f"sent back to {queue}")),
        letters.open_channel(topology) as channel,
        Requeue(topology, chosen) as back,
    ):
        count = letters.settle(
            channel,
            topology,
            chosen,
            lambda letter: everything or letter.message_id in message_ids,
            send_back,
        )
    click.echo(f"{counted(count, 'dead letter')} sent back to {queue}")
    if count and (note := _outdated_note(topology, queue)):
        click.echo(printable(note), err=True)
    _refuse_missing(queue, missing)


@command.command(
    "drop",
    epilog="""\b
Example:
  feedbus dead drop update_feed a712307c1fe943fb899a2655beb82520.0-0
""",
)
@click.argument("queue", type=QUEUE)
@click.argument("message_ids", nargs=-1, required=True)
@click.pass_obj
def drop(context: Context, queue: str, message_ids: tuple[str, ...]) -> None:
    """Delete dead letters of QUEUE. If one of them blocked a key, the key is unblocked.

    The key is also unblocked if another program has deleted the dead letter.
    """
    from feedbus.dead_letters import letters
    from feedbus.dead_letters.key_release import release

    topology = context.load_with_same_broker()
    chosen = topology.queue(queue)
    missing = dict.fromkeys(message_ids)
    dropped = 0
    with (
        reported(lambda: _interrupted(dropped, "dropped")),
        letters.open_channel(topology) as channel,
    ):

        def note(letter: DeadLetter) -> None:
            nonlocal dropped
            missing.pop(letter.message_id, None)
            dropped += 1

        count = letters.drop(
            channel, topology, chosen, lambda letter: letter.message_id in message_ids, note
        )
        if missing and chosen.block_on_dead:
            release(channel.connection, topology, chosen, missing)
    click.echo(f"{counted(count, 'dead letter')} dropped")
    _refuse_missing(queue, missing, was_released=chosen.block_on_dead)


@command.command("purge", epilog="\b\nExample:\n  feedbus dead purge send_notification.sms --yes")
@click.argument("queue", type=QUEUE)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def purge(context: Context, queue: str, yes: bool) -> None:  # noqa: FBT001 -- click passes a flag
    """Delete all dead letters of QUEUE. Keys that they blocked are unblocked.

    If QUEUE has no dead letters, the keys are unblocked whose dead letters another program has
    deleted.
    """
    from feedbus.broker_names import Names
    from feedbus.dead_letters import letters
    from feedbus.dead_letters.key_release import release

    topology = context.load_with_same_broker()
    chosen = topology.queue(queue)
    dropped = 0

    def note(_letter: DeadLetter) -> None:
        nonlocal dropped
        dropped += 1

    with (
        reported(lambda: _interrupted(dropped, "dropped")),
        letters.open_channel(topology) as channel,
    ):
        count = letters.count(channel, topology, chosen)
        if count and not yes:
            question = f"Delete {counted(count, 'dead letter')} of {queue}? They cannot be"
            confirm(f"{question} restored.", "nothing was deleted")
        if count and chosen.block_on_dead:
            letters.drop(channel, topology, chosen, lambda _: True, note)
        elif count:
            dropped = int(channel.queue_purge(Names(topology).dead(chosen)) or 0)
        elif chosen.block_on_dead:
            # The empty id releases the keys of all dead letters, also of deleted ones.
            release(channel.connection, topology, chosen, [""])
    click.echo(f"{counted(dropped, 'dead letter')} dropped")


def _outdated_note(topology: Topology, queue: str) -> str:
    """Return a note if code of the queue's consumers has changed since they started; else "".

    Until they are restarted, the consumers run the old code, so requeued records may fail again.
    """
    from feedbus.supervisor.outdated_processes import outdated_consumers_note

    try:
        return outdated_consumers_note(topology, queue)
    except FeedbusError:  # the supervisor does not answer; the dead letters were sent back anyway
        return ""


def _interrupted(count: int, what: str) -> str:
    """Return what an interrupted command has done with dead letters, and how to continue it.

    Args:
        count: how many dead letters the command has processed.
        what: what it has done with them, such as "dropped".

    """
    if not count:
        return "the dead letters are unchanged; run the command again"
    letters = counted(count, "dead letter was", "dead letters were")
    return f"{letters} {what}; run the command again for the others"


def _refuse_missing(queue: str, missing: Iterable[str], *, was_released: bool = False) -> None:
    """Raise UsageError if some ids belong to no dead letter.

    Args:
        queue: the name of the queue in topology.toml.
        missing: the ids without a dead letter.
        was_released: whether the keys that they may have blocked were unblocked.

    """
    if names := [f"'{each}'" for each in missing]:
        letters = "letter" if len(names) == 1 else "letters"
        released = "; keys that they blocked are unblocked now" if was_released else ""
        msg = (
            f"no dead {letters} {listed(names)} in {queue}{released}; `feedbus dead list {queue}`"
            " lists its dead letters"
        )
        raise UsageError(msg)


def _queues(topology: Topology, name: str | None) -> Iterable[Queue]:
    return topology.queues.values() if name is None else [topology.queue(name)]


def _values(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON values; the body is cut after BODY_SHOWN bytes."""
    shown = letter.body[:BODY_SHOWN].decode(errors="replace")
    delivery = letter.delivery
    return {
        "id": letter.message_id,
        "queue": letter.queue,
        "key": letter.key,
        "reason": letter.reason,
        "errors": letter.errors,
        "traceback": letter.traceback.splitlines(),
        "attempts": letter.attempts,
        "failed_at": _when(letter),
        "content_type": letter.content_type,
        "properties": {
            name: _shown(value)
            for name, value in delivery.properties.items()
            if name not in {"application_headers", "content_type"}
        },
        "headers": {
            name: _shown(value)
            for name, value in delivery.headers.items()
            if name not in OF_FAILURES
        },
        "faults": list(delivery.undecodable),
        "body": shown,
        "body_bytes": len(letter.body),
    }


def _shown(value: Any) -> Any:
    """Return a property or a header as a JSON value."""
    if isinstance(value, dict):
        return {str(name): _shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str | int | float | None) else str(value)


def _line(letter: DeadLetter) -> str:
    when = _when(letter) or "-"
    return printable(
        f"{when}  {letter.queue}  {letter.message_id}  key={letter.key}  {letter.reason}"
    )


def _when(letter: DeadLetter) -> str | None:
    """Return when a message became a dead letter, in ISO 8601; None if it is not known."""
    if letter.failed_at_microseconds is None:
        return None
    try:
        failed_at = dt.datetime.fromtimestamp(letter.failed_at_microseconds / 1e6, dt.UTC)
    except (ValueError, OverflowError, OSError):  # a header that another program has written
        return None
    return failed_at.isoformat(timespec="seconds")
