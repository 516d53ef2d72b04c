"""The selection of a consumer's mode: the object that handles and settles its deliveries."""

from __future__ import annotations

from feedbus.bus.sender import Sender
from feedbus.handling.routes import HandlerRoutes
from feedbus.runner.base_mode import Mode
from feedbus.runner.batch_mode import BatchMode
from feedbus.runner.group_mode import GroupMode
from feedbus.runner.run_state import Run
from feedbus.runner.subscriptions import Subscriptions


def select_mode(
    run: Run, subscriptions: Subscriptions, handlers: HandlerRoutes, sender: Sender
) -> Mode:
    """Return the mode of a consumer: the object that handles and settles its deliveries.

    The runner calls this once, when the consumer begins. There are three modes:

    - ConcurrentMode handles several records at the same time, if `concurrency` is above 1.
    - GroupMode handles deliveries one after the other, and acknowledges them together. It is for
      handlers that get one record, if the queue uses no store and does not set `stream`.
    - BatchMode handles and settles a batch before the next one begins.

    Args:
        run: the run of the consumer.
        subscriptions: the queues that the consumer reads.
        handlers: the handlers of the queue's messages.
        sender: sends the messages of the handlers.

    """
    queue = run.consumer.queue
    if queue.concurrency > 1:
        # These modules are imported here because they import asyncio, which takes long.
        # ConcurrentMode receives messages, ConcurrentDeliveries knows which messages may be
        # acknowledged, and ConcurrentCalls calls the handlers.
        from feedbus.dispatch.concurrent_calls import ConcurrentCalls
        from feedbus.runner.concurrent_deliveries import ConcurrentDeliveries
        from feedbus.runner.concurrent_mode import ConcurrentMode

        calls = ConcurrentCalls(run.dispatch, run.consumer, sender, run.resources)
        concurrent = ConcurrentDeliveries(
            run.consumer.name, calls, run.crash_guard, run.handler_seconds, run.clock
        )
        return ConcurrentMode(run, subscriptions, concurrent)
    needs_batches = queue.stream or any(each.batch for each in handlers.handlers)
    if needs_batches or run.dispatch.has_store:
        return BatchMode(run, subscriptions)
    return GroupMode(run, subscriptions, sender)
