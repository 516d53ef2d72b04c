"""The handlers of a queue as functions that include the middleware of the topology."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from feedbus.handling.handlers import Handler, refuse_in_transaction
from feedbus.handling.message_types import Loaded
from feedbus.handling.message_types.record_loader import Reads
from feedbus.handling.middleware import MiddlewareStack, resolve_middleware
from feedbus.handling.parameters import Given
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.records.packs import Pack
from feedbus.store import NoStore, Store
from feedbus.topology import Consumer, Topology

Call = Callable[[Any, Given], None]
AsyncCall = Callable[[Any, Given], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class WrappedHandler:
    """One handler of the queue: its message type, and its calls within the middleware.

    Attributes:
        handler: the handler.
        reads: what the body of a message for the handler is decoded to: "object" (a mapping of
            fields), "text" or "bytes".
        load: validates the records of a pack for the handler.
        call: calls the handler, and returns when it has ended. The arguments are the record or the
            Records of a batch, and the values that the handler's parameters can request.
        call_async: a coroutine function that does the same in the event loop; None if the handler
            is not async.

    """

    handler: Handler
    reads: Reads
    load: Callable[[Pack], Loaded]
    call: Call
    call_async: AsyncCall | None


def wrap_handlers(
    topology: Topology,
    consumer: Consumer,
    routes: HandlerRoutes,
    store: Store,
    resources: Resources,
) -> list[WrappedHandler]:
    """Return the handlers of a consumer's queue, in the order of the routes.

    The dispatch calls this once, when it is created.

    Args:
        topology: the topology, whose middleware runs around each call.
        consumer: the consumer.
        routes: the handlers of the queue.
        store: the store in whose transactions the handlers run.
        resources: the resources of the process; resources that the handlers request are added.

    Raises:
        UsageError: a handler or a middleware cannot be used for this queue.

    """
    wrapped_handlers = []
    for handler in routes.handlers:
        loader = handler.record_loader()
        calls = _calls(topology, consumer, handler, store, resources)
        wrapped_handlers.append(WrappedHandler(handler, loader.reads, loader.load, *calls))
    return wrapped_handlers


def _calls(
    topology: Topology, consumer: Consumer, handler: Handler, store: Store, resources: Resources
) -> tuple[Call, AsyncCall | None]:
    """Return two functions that call a handler within the middleware.

    The first one returns when the handler has ended. The second one is a coroutine function for the
    event loop; it is None if the handler is not async.
    """
    middleware = [
        resolve_middleware(name, topology.root, asynchronous=handler.is_async)
        for name in topology.middleware
    ]
    stack = MiddlewareStack(middleware, consumer, resources)
    session_type = store.session_type
    if not isinstance(store, NoStore):
        refuse_in_transaction(handler.function)
    if not handler.is_async:
        return stack.around(handler.make_callable(session_type, resources)), None
    async_call = stack.around_async(handler.make_async_callable(session_type, resources))
    timeout_seconds = consumer.queue.handler_timeout_seconds

    async def call_and_flush(argument: Any, given: Given) -> None:
        await async_call(argument, given)
        if not handler.batch:
            # The bus refuses messages from now on. No other task of the loop runs before this call:
            # a task that the handler has started must not publish any more. The flush() of a batch
            # handler's bus can also send messages, which is not allowed in the thread of the loop.
            # So HandlerCalls calls it.
            given.bus.flush()

    def call(argument: Any, given: Given) -> None:
        resources.run(call_and_flush(argument, given), timeout_seconds)

    return call, call_and_flush
