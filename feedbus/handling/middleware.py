"""Middleware: code of a project that runs around each call of a handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from feedbus.errors import described
from feedbus.handling.annotations import Unfit, file_and_line, name_of
from feedbus.handling.imported_objects import resolve_object
from feedbus.handling.parameters import Given, Parameters, Resource, Source
from feedbus.handling.resources import Resources
from feedbus.records import Records
from feedbus.records.message import Message
from feedbus.topology import Consumer

# A function that calls a handler. Its arguments are a record or Records, and a Given with the
# values for the other parameters of the handler.
Caller = Callable[[Any, Given], None]
AsyncCaller = Callable[[Any, Given], Coroutine[Any, Any, None]]
EXPECTED = "a class derived from feedbus.Middleware"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a handler; each middleware gets it for the duration of the call.

    Attributes:
        queue: the name of the queue in topology.toml.
        consumer: the queue's name, or the shard's.
        records: the number of records of the call.
    """

    queue: str
    consumer: str
    records: int
    _records: Records = field(repr=False)

    @property
    def messages(self) -> list[Message]:
        """The messages of the records, in order; they are created on demand."""
        return self._records.messages


class Middleware:
    """Runs around each call of a handler; the topology's `[middleware]` names the classes.

        class Timing(Middleware):
            @contextmanager
            def around(self, call: Call) -> Iterator[None]:
                started = time.perf_counter()
                yield  # the handler is called here
                log.info("%s took %.3f s", call.consumer, time.perf_counter() - started)

    Each process creates one object of the class. The parameters of its constructor can request
    resources and the Topology.
    """

    def around(
        self, call: Call
    ) -> AbstractContextManager[None] | AbstractAsyncContextManager[None]:
        """Return a context manager in which the handler is called.

        feedbus calls around() before each call of the handler. An exception of the context manager
        has the same effect as an exception of the handler. The context manager must not suppress an
        exception of the handler, because the message was perhaps not handled. If the context
        manager suppresses it, SwallowedError is raised. An asynccontextmanager can be used only
        around async handlers.

        Args:
            call: the queue, the consumer and the messages of the call of the handler.
        """
        del call
        return nullcontext()


class SwallowedError(Exception):
    """A middleware has suppressed an exception of the handler, so the call counts as failed.

    Args:
        middleware: the middleware.
        error: the exception of the handler.
    """

    def __init__(self, middleware: Middleware, error: BaseException) -> None:
        """Create the error with the middleware and the suppressed exception."""
        kind = type(middleware)
        super().__init__(
            f"the middleware {name_of(kind)}{file_and_line(kind)} suppressed"
            f" {described(error)}; do not catch the exception, or raise another one"
        )


def resolve_middleware(dotted: str, root: Path, *, asynchronous: bool) -> type[Middleware]:
    """Import the class of a middleware by its dotted name, check it, and return it.

    Args:
        dotted: "package.module:name".
        root: the folder of the topology.
        asynchronous: whether all handlers around which the middleware runs are async.

    Raises:
        UsageError: the class cannot be imported, or cannot be a middleware of these handlers.
    """
    found = resolve_object(dotted, root)
    if not (isinstance(found, type) and issubclass(found, Middleware)):
        raise Unfit(found, EXPECTED, f"is not a middleware but {found!r:.80}")
    around = found.around
    if inspect.isgeneratorfunction(around) or inspect.isasyncgenfunction(around):
        form = "asynccontextmanager" if inspect.isasyncgenfunction(around) else "contextmanager"
        got = "is a generator, not a context manager"
        raise Unfit(around, f"the decorator @{form} above it", got)
    if inspect.iscoroutinefunction(around):
        got = "is a coroutine function, not a context manager"
        raise Unfit(around, "the decorator @asynccontextmanager above it, and one yield in it", got)
    if inspect.isasyncgenfunction(inspect.unwrap(around)) and not asynchronous:
        got = "is async, but a handler of the topology is not async"
        raise Unfit(around, "a context manager that is defined with 'def'", got)
    parameters_of(found).resources()
    return found


def parameters_of(middleware: type[Middleware]) -> Parameters:
    """Return Parameters that request the object of a middleware class.

    feedbus treats the class as the function of a resource, and the object as the value of this
    resource. So the parameters of the constructor can request other resources.
    """
    return Parameters((Resource(middleware),))


class MiddlewareStack:
    """The middleware around the handlers of one consumer; the first one is the outermost.

    Args:
        middleware: the classes, in the order of topology.toml.
        consumer: the consumer; each middleware gets its name with each call.
        resources: the resources of the process, which open an object of each class.
    """

    def __init__(
        self, middleware: Sequence[type[Middleware]], consumer: Consumer, resources: Resources
    ) -> None:
        """Create the stack; the middleware objects are created when the resources are opened.

        Args:
            middleware: the classes, the outermost first.
            consumer: the consumer of the handlers.
            resources: the resources of the process; the middleware objects are added to them.

        """
        self._consumer = consumer
        self._sources: list[Source] = []
        for kind in middleware:
            resources.request(parameters_of(kind))
            self._sources.append(resources.value_of(Resource(kind)))

    def around(self, caller: Caller) -> Caller:
        """Return a function that calls a handler within the middleware.

        Args:
            caller: calls the handler, with a record or Records, and with the values for its other
                parameters. The result has the same arguments.
        """
        if not self._sources:
            return caller

        def call(argument: Any, given: Given) -> None:
            about = self._about(given)

            def enter(number: int) -> None:
                if number == len(self._sources):
                    caller(argument, given)
                    return
                middleware, raised = self._sources[number](given), None
                with _manager(middleware, about):
                    try:
                        enter(number + 1)
                    except BaseException as error:
                        raised = error
                        raise
                if raised is not None:
                    _raise_swallowed(middleware, raised)

            enter(0)

        return call

    def around_async(self, caller: AsyncCaller) -> AsyncCaller:
        """Return a coroutine function that calls an async handler within the middleware.

        Args:
            caller: calls the handler, with a record or Records, and with the values for its other
                parameters. The result has the same arguments.
        """
        if not self._sources:
            return caller

        async def call(argument: Any, given: Given) -> None:
            about = self._about(given)

            async def enter(number: int) -> None:
                if number == len(self._sources):
                    await caller(argument, given)
                    return
                middleware, raised = self._sources[number](given), None
                async with _as_async(_manager(middleware, about)):
                    try:
                        await enter(number + 1)
                    except BaseException as error:
                        raised = error
                        raise
                if raised is not None:
                    _raise_swallowed(middleware, raised)

            await enter(0)

        return call

    def _about(self, given: Given) -> Call:
        records = given.records
        return Call(self._consumer.queue.name, self._consumer.name, len(records), records)


def _manager(middleware: Middleware, about: Call) -> Any:
    found: object = middleware.around(about)
    if isinstance(found, AbstractContextManager | AbstractAsyncContextManager):
        return found
    around = middleware.around
    msg = (
        f"{name_of(around)}{file_and_line(around)} returned {type(found).__name__}:"
        " expected a context manager; write the decorator @contextmanager above it, and one yield"
        " in it"
    )
    raise TypeError(msg)


class _Awaited(AbstractAsyncContextManager[None]):
    """A synchronous context manager that is used as an asynchronous one."""

    def __init__(self, inner: AbstractContextManager[None]) -> None:
        self._inner = inner

    async def __aenter__(self) -> None:
        self._inner.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._inner.__exit__(kind, error, trace)


def _as_async(
    manager: AbstractContextManager[None] | AbstractAsyncContextManager[None],
) -> AbstractAsyncContextManager[None]:
    return manager if isinstance(manager, AbstractAsyncContextManager) else _Awaited(manager)


def _raise_swallowed(middleware: Middleware, raised: BaseException) -> NoReturn:
    raise SwallowedError(middleware, raised) from raised
