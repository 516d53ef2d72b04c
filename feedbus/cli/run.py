"""feedbus run: one consumer in the foreground."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

from feedbus.cli import Context
from feedbus.cli.names import CONSUMER
from feedbus.cli.values import DURATION
from feedbus.errors import UsageError
from feedbus.printable import log_handler


@click.command(
    "run",
    epilog="""\b
Examples:
  feedbus run update_feed_3
  feedbus run send_notification.email --max-messages 100 --idle-timeout 10s
""",
)
@click.argument("consumer", type=CONSUMER)
@click.option("--max-messages", type=click.IntRange(min=1), help="End after so many messages.")
@click.option("--idle-timeout", type=DURATION, help="End when nothing came for so long: 30s, 5m.")
@click.option("--max-runtime", type=DURATION, help="End after so long: 30s, 5m.")
@click.option(
    "--slot",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Which of its processes.",
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
    """Run CONSUMER until a limit or a signal ends it, which is exit code 0."""
    # What is imported is no garbage: looking for some makes importing a tenth slower.
    gc.disable()
    from feedbus import lifeline, watchdog
    from feedbus.handler_routes import HandlerRoutes
    from feedbus.metrics import Metrics
    from feedbus.runner import Limits, Runner, Suspects
    from feedbus.store import open_store

    supervised = lifeline.follow_parent()
    logging.basicConfig(
        level=logging.INFO, handlers=[log_handler("%(asctime)s %(levelname)s %(message)s")]
    )
    topology = context.load()
    chosen = topology.consumer(consumer)
    queue = chosen.queue
    with _located(context):
        handlers = HandlerRoutes.of(queue, topology.root)
    limits = Limits(
        max_messages=max_messages or queue.max_messages,
        idle_timeout_seconds=idle_timeout or queue.idle_timeout_seconds,
        max_runtime_seconds=max_runtime or queue.max_runtime_seconds,
        memory_limit_bytes=queue.memory_limit_bytes,
    )
    if queue.memory_limit_bytes is not None:
        lifeline.limit_memory(queue.memory_limit_bytes)
    name = f"{chosen.name}.{slot}"
    with lifeline.hold_slot(topology, chosen.name, slot):
        metrics = Metrics.open(topology.var / "metrics", name)
        hand = lifeline.slot_path(lifeline.run_folder(topology), chosen.name, slot, "hand")
        with watchdog.over(name, hand, supervised=supervised), Suspects(hand) as suspects:
            store = open_store(topology, waiting=suspects.paused)
            with _located(context):
                runner = Runner(
                    topology,
                    chosen,
                    handlers,
                    limits=limits,
                    metrics=metrics,
                    suspects=suspects,
                    store=store,
                    on_ready=lifeline.mark_ready,
                    on_hold=lifeline.mark_holding,
                )
            gc.freeze()  # nor is it looked through later, while messages wait
            gc.enable()
            with runner.stopping_on_signals():
                logging.getLogger(__name__).info("%s started", name)
                reason = runner.run()
        logging.getLogger(__name__).info("%s ended: %s", name, reason)
        store.close()


@contextmanager
def _located(context: Context) -> Iterator[None]:
    """Where a handler does not fit, raise with the lines of the topology that say so."""
    try:
        yield
    except UsageError:
        context.load(import_handlers=True)
        raise
