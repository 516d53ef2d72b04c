"""The resources of one process: opened before the first message, closed when the process ends.

A resource is an object that the handlers of the process share, such as an HTTP client. It is opened
again if it has ended by itself, or if a handler has raised Outage.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feedbus.clock import SYSTEM, Clock
from feedbus.errors import FeedbusError, Outage, UsageError, described, unavailable_part
from feedbus.handling.annotations import file_and_line, name_of
from feedbus.handling.parameters import Parameters, Resource, Source, declared, of_resource
from feedbus.logs import EventLog
from feedbus.topology import Topology

if TYPE_CHECKING:
    from feedbus.handling.event_loop import HandlerLoop

events = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """The object from which a resource or a middleware gets the topology when it is opened.

    Attributes:
        topology: the topology of the project.
    """

    topology: Topology


class Resources:
    """The resources of a process's handlers and middleware, with the values of open resources.

    The process of a consumer has one Resources object, and so has a test system. This object opens
    the resources before the first message, and closes them when the process or the system ends.

    Args:
        topology: the topology, which functions of resources can request.
        on_blocked: called while an async handler blocks the event loop, with the seconds of
            blocking since the last call.
        clock: gives the time, and starts the thread of the event loop.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        on_blocked: Callable[[float], None] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        """Create the object without open resources.

        Args:
            topology: the topology, which resources can request.
            on_blocked: called repeatedly while an async handler blocks the event loop, with the
                seconds of blocking since the last call.
            clock: gives the time, and starts the thread of the event loop.

        """
        self._opening = Opening(topology)
        self._clock = clock
        self._on_blocked = on_blocked
        # The open resources that have ended by themselves. The thread of the event loop adds them.
        self._dead: set[Resource] = set()
        self._loop: HandlerLoop | None = None
        self._requests: list[Parameters] = []
        self._values: dict[Resource, Any] = {}
        self._overridden: set[Resource] = set()  # those whose values come from override()
        # The open resources in the order of their opening, each with the function that closes it.
        self._ends: list[tuple[Resource, Callable[[], None]]] = []
        self._all_open = False
        # Whether a handler has raised an outage, so that open() closes the resources first.
        self._suspected = False

    def request(self, parameters: Parameters) -> None:
        """Add the resources that these parameters request to the resources that open() opens."""
        self._requests.append(parameters)
        self._all_open = False

    @property
    def ready(self) -> bool:
        """Whether all requested resources are open."""
        return self._all_open and not self._dead

    def value_of(self, resource: Resource) -> Source:
        """Return a function that returns the value of a resource while the resource is open.

        The value becomes an argument of a handler, a middleware or another resource. The returned
        function has one parameter, because the type Source requires one, and does not use it.
        """
        values = self._values
        return lambda _given: values[resource]

    def open(self) -> None:
        """Open the requested resources that are not open.

        First, close the resources that have ended by themselves, and the resources that need one of
        these. After close_at_next_open(), close all resources. Then open each resource after the
        resources that it needs. No handler may run during this call.

        Raises:
            Outage: a resource cannot be opened; the resources that are open stay open.

        """
        if self.ready:
            return
        while self._dead:
            dead = list(self._dead)
            self._close_some(dead)
            self._dead.difference_update(dead)  # an overridden one has not been closed
        if self._suspected:
            # A middleware that needs no resource is left out: it cannot have a broken connection
            # of a resource, and it may count calls.
            self._close_some([each for each in self._values if declared(each.function)])
            self._suspected = False
        for parameters in self._requests:
            self._open(parameters)
        self._all_open = True

    def close_at_next_open(self, error: FeedbusError) -> None:
        """Let the next open() close all resources and open them again, if a handler is the cause.

        A handler raises Outage if something that it needs does not answer. A resource is then
        perhaps a lost connection, which only its function can replace. During an outage of the
        broker or the store, the resources stay open, also if one of them cannot be opened.

        Args:
            error: the error because of which the consumer holds.

        """
        if (
            self._all_open
            and unavailable_part(error) == "handler"
            # Without a resource, the concurrent mode need not wait until no call runs.
            and any(declared(each.function) for each in self._values)
        ):
            self._all_open, self._suspected = False, True

    def override(self, function: object, value: Any) -> None:
        """Use another value for a resource; its function is then not called.

        Args:
            function: the function with the decorator @resource.
            value: the value.

        Raises:
            UsageError: no handler or middleware needs the resource.
            TypeError: the function is not a resource.

        """
        resource = declared(function)
        if resource is None:
            msg = (
                "resource: expected a function with the decorator @feedbus.resource, got"
                f" {function!r:.80}"
            )
            raise TypeError(msg)
        if not any(resource in parameters.resources() for parameters in self._requests):
            msg = f"no handler or middleware needs the resource {_shown(resource)}"
            raise UsageError(msg)
        self._values[resource] = value
        self._overridden.add(resource)

    def close(self) -> None:
        """Close all resources in reverse order; log each resource that cannot be closed."""
        self._suspected = False  # _end() must not log that a resource is opened again
        while self._ends:
            self._end(*self._ends.pop())
        self._values.clear()
        self._overridden.clear()
        self._dead.clear()
        self._all_open = False
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def _end(self, resource: Resource, end: Callable[[], None]) -> None:
        """Close a resource, and log an error that occurs.

        If the resource has ended by itself, log this instead, with the error if one occurs. After
        an outage, an error is probably a consequence of it, so the log has no traceback.

        Args:
            resource: the resource.
            end: closes the resource. If an error has ended the resource before, `end` raises this
                error.

        """
        error: BaseException | None = None
        try:
            end()
        except KeyboardInterrupt:
            raise
        except BaseException as caught:  # noqa: BLE001 -- the other resources must still be closed
            error = caught
        if resource in self._dead:
            text = (
                f"the resource {_shown(resource)} has ended by itself; feedbus opens it again"
                " before the next message"
            )
            events.error("resource_ended", text, exc_info=error)
        elif error is not None and self._suspected:
            text = (
                f"the resource {_shown(resource)} could not be closed after an outage; feedbus"
                " opens it again"
            )
            events.warning("resource_not_closed", text, error=described(error))
        elif error is not None:
            text = f"the resource {_shown(resource)} could not be closed; the others are closed"
            events.error("resource_not_closed", text, exc_info=error)

    def _close_some(self, resources: Collection[Resource]) -> None:
        """Close those of these resources that are open, and the resources that need them.

        Overridden resources stay, because only the test that has overridden them can close them.
        """
        replaceable = self._values.keys() - self._overridden
        ended = replaceable.intersection(resources)
        closing = {
            each
            for each in replaceable
            if each in ended or not ended.isdisjoint(of_resource(each).resources())
        }
        for entry in [each for each in reversed(self._ends) if each[0] in closing]:
            self._ends.remove(entry)
            self._end(*entry)
            # It may have ended by itself just before. The next open() must not close its successor.
            self._dead.discard(entry[0])
        for each in closing:
            del self._values[each]
        self._all_open = False

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout_seconds: float | None = None) -> Any:
        """Run a coroutine in the event loop of the process's async handlers; return its result.

        Exceptions of the coroutine are raised here.

        Args:
            coroutine: the coroutine.
            timeout_seconds: the time limit; None for no limit.

        Raises:
            HandlerTimeout: the coroutine exceeded the time limit and was cancelled.

        """
        return self.loop.run(coroutine, timeout_seconds)

    @property
    def loop(self) -> HandlerLoop:
        """The event loop of the process's async handlers, which is started on demand."""
        if self._loop is None:
            from feedbus.handling.event_loop import HandlerLoop  # asyncio takes long to import

            self._loop = HandlerLoop(self._on_blocked, self._clock)
        return self._loop

    def _open(self, parameters: Parameters) -> None:
        for resource in parameters.wants:
            if isinstance(resource, Resource) and resource not in self._values:
                self._values[resource] = self._opened(resource)

    def _opened(self, resource: Resource) -> Any:
        parameters = of_resource(resource)
        self._open(parameters)
        positions, keywords = parameters.sources(self.value_of)
        try:
            result = resource.function(
                *(source(self._opening) for source in positions),
                **{name: source(self._opening) for name, source in keywords.items()},
            )
            if resource.is_async:
                return self._opened_in_loop(resource, result)
            if not resource.yields:
                return result
            value = next(result)
            self._ends.append((resource, lambda: _finish(result)))
        except (Outage, KeyboardInterrupt):
            raise
        except BaseException as error:
            empty = isinstance(error, StopIteration)
            reason = "it has yielded no value" if empty else described(error)
            msg = f"the resource {_shown(resource)} cannot be opened: {reason}"
            raise Outage(msg) from error
        return value

    def _opened_in_loop(self, resource: Resource, coroutine_or_generator: Any) -> Any:
        if not resource.yields:
            return self.run(coroutine_or_generator)
        from feedbus.handling.async_resources import (  # asyncio takes long to import
            GeneratorTask,
        )

        task = GeneratorTask(coroutine_or_generator, lambda: self._dead.add(resource))
        value = self.run(task.begin())
        self._ends.append((resource, lambda: self.run(task.end())))
        return value


def _finish(generator: Generator[Any, None, None]) -> None:
    for _ in generator:
        msg = "expected one yield in a resource, got two"
        raise RuntimeError(msg)


def _shown(resource: Resource) -> str:
    return f"{name_of(resource.function)}{file_and_line(resource.function)}"
