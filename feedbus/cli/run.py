"""feedbus run: one consumer in the foreground."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from feedbus.cli import Context
from feedbus.cli.duration_option import DURATION
from feedbus.cli.name_completion import CONSUMER
from feedbus.cli.supervised_errors import failures_logged
from feedbus.errors import UsageError
from feedbus.logs import EventLog, configure

if TYPE_CHECKING:
    from feedbus.runner import Limits
    from feedbus.topology import Consumer, Topology

events = EventLog(__name__)


@click.command(
    "run",
    epilog="""\b
Examples:
  feedbus run update_feed_3
  feedbus run send_notification.email --max-messages 100 --idle-timeout 10s
""",
)
@click.argument("consumer", type=CONSUMER)
@click.option(
    "--max-messages", type=click.IntRange(min=1), help="End after this number of messages."
)
@click.option(
    "--idle-timeout", type=DURATION, help="End when no message has arrived for this time: 30s, 5m."
)
@click.option("--max-runtime", type=DURATION, help="End after this time: 30s, 5m.")
@click.option(
    "--slot",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="The number of this process among the processes of the consumer.",
)
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 -- an option each
    context: Context,
    consumer: str,
    max_messages: int | None,
    idle_timeout: float | None,
    max_runtime: float | None,
    slot: int,
) -> None:
    """Run CONSUMER in the foreground until a limit or a signal ends it; the exit code is then 0."""
    # Imported modules are not garbage; without collections, the imports are 10 % faster.
    gc.disable()
    from feedbus.process.process_setup import follow_parent
    from feedbus.runner import Limits

    supervised = follow_parent()
    topology = context.load()
    chosen = topology.consumer(consumer)
    queue = chosen.queue
    slot_field: dict[str, Any] = {"slot": slot} if queue.processes > 1 else {}
    configure(topology.logging.format, consumer=chosen.name, **slot_field)
    limits = Limits(
        max_messages=max_messages or queue.max_messages,
        idle_timeout_seconds=idle_timeout or queue.idle_timeout_seconds,
        max_runtime_seconds=max_runtime or queue.max_runtime_seconds,
        memory_limit_bytes=queue.memory_limit_bytes,
    )
    with failures_logged(supervised=supervised):
        _run(context, topology, ConsumerSlot(chosen, slot, supervised=supervised), limits)


@dataclass(frozen=True, slots=True)
class ConsumerSlot:
    """The consumer and the slot of this process, while `feedbus run` runs.

    Attributes:
        consumer: the consumer.
        slot: the number of this process among the processes of the consumer, from 1.
        supervised: whether a supervisor has started this process.

    """

    consumer: Consumer
    slot: int
    supervised: bool


def _run(context: Context, topology: Topology, own: ConsumerSlot, limits: Limits) -> None:
    """Run a consumer until a limit or a signal ends it."""
    from feedbus.handling.routes import HandlerRoutes
    from feedbus.hosts.assignment_file import assignment_of
    from feedbus.metrics import Metrics, mark_waiting
    from feedbus.process import status_files, watchdog
    from feedbus.process.process_setup import limit_memory
    from feedbus.process.slots import hold_slot, run_folder, slot_path
    from feedbus.runner import CrashGuard, Runner, stopping_on_signals
    from feedbus.store import open_store

    consumer, slot = own.consumer, own.slot
    with _located(context):
        handlers = HandlerRoutes.of(consumer.queue, topology.root)
    if consumer.queue.memory_limit_bytes is not None:
        limit_memory(consumer.queue.memory_limit_bytes)
    with hold_slot(topology, consumer.name, slot):
        metrics = Metrics.open(topology.var / "metrics", f"{consumer.name}.{slot}")
        handler_file = slot_path(run_folder(topology), consumer.name, slot, "handler")
        form, supervised = topology.logging.format, own.supervised
        watched = watchdog.over(consumer.name, handler_file, log_format=form, supervised=supervised)
        with watched, CrashGuard(handler_file) as crash_guard:
            store = open_store(topology, waiting=crash_guard.paused)
            with _located(context):
                runner = Runner(
                    topology,
                    consumer,
                    handlers,
                    limits=limits,
                    metrics=metrics,
                    crash_guard=crash_guard,
                    store=store,
                    on_ready=status_files.mark_ready,
                    on_hold=status_files.mark_holding,
                    on_waiting=mark_waiting,
                    is_assigned=assignment_of(topology, consumer.name, supervised=supervised),
                )
            gc.freeze()  # later collections do not check these objects
            gc.enable()
            with stopping_on_signals(runner.stop):
                events.info("started", "the consumer has started", consumer=consumer.name)
                reason = runner.run()
        text = f"the consumer has ended: {reason}"
        events.info("ended", text, consumer=consumer.name, reason=reason)
        store.close()


@contextmanager
def _located(context: Context) -> Iterator[None]:
    """If the `with` block raises UsageError, raise TopologyError instead, with lines of the file.

    After the UsageError, the function checks the whole topology with its handlers. If this check
    finds problems, such as a handler that does not fit its queue, it raises TopologyError.
    Otherwise the UsageError is raised.
    """
    try:
        yield
    except UsageError:
        context.load(import_handlers=True)
        raise
