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
        reads: the kind of body that it takes: objects, text or bytes.
        load: validates records for the handler.
        call: calls the handler.
        call_async: calls the handler in the event loop; None if the handler is not async.

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
    """Return the handlers of a consumer's queue, in the order of the routes."""
    wrapped_handlers = []
    for handler in routes.handlers:
        loader = handler.record_loader()
        calls = _calls(topology, consumer, handler, store, resources)
        wrapped_handlers.append(WrappedHandler(handler, loader.reads, loader.load, *calls))
    return wrapped_handlers


def _calls(
    topology: Topology, consumer: Consumer, handler: Handler, store: Store, resources: Resources
) -> tuple[Call, AsyncCall | None]:
    """Return a function that calls a handler, and a coroutine function for an async handler.

    The second is None if the handler is not async.
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

    async def finished(argument: Any, given: Given) -> None:
        await async_call(argument, given)
        if not handler.batch:
            given.bus.flush()  # before another task of the loop continues

    def call(argument: Any, given: Given) -> None:
        resources.run(finished(argument, given), timeout_seconds)

    return call, finished
