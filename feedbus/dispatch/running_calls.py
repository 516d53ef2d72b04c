"""The calls that run at the same time: in threads, or as tasks of the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from feedbus.clock import Clock
from feedbus.dispatch.concurrent_records import RecordCall
from feedbus.dispatch.handler_calls import HandlerCalls
from feedbus.dispatch.wake_up_socket import Waker
from feedbus.dispatch.wrapped_handlers import AsyncCall
from feedbus.handling.event_loop import limit
from feedbus.handling.resources import Resources
from feedbus.logs.python_warnings import note_coroutines
from feedbus.process.threads import Pool
from feedbus.topology import Queue


class RunningCalls:
    """Starts calls of handlers, and reports their ends to the consumer's thread.

    ConcurrentCalls has one RunningCalls object, for the whole life of the consumer's process.

    Attributes:
        ended_calls: the records whose calls have ended. The threads of the calls and of the event
            loop append to this deque.
        waker: wakes the consumer's thread when a call has ended.

    """

    def __init__(
        self, calls: HandlerCalls, queue: Queue, resources: Resources, clock: Clock
    ) -> None:
        """Start without calls.

        Args:
            calls: calls the handlers.
            queue: its `concurrency` is the number of threads, and its `handler_timeout` is the time
                limit of a call in the event loop.
            resources: the resources of the handlers, which include the event loop.
            clock: starts the threads, and measures the calls.

        """
        self._handlers = calls
        self._max_calls = queue.concurrency
        self._timeout_seconds = queue.handler_timeout_seconds
        self._resources = resources
        self._clock = clock
        self._pool: Pool | None = None
        self.ended_calls: deque[RecordCall] = deque()
        self.waker = Waker()

    def start(self, calls: Sequence[RecordCall]) -> None:
        """Start the calls of records.

        An async handler is called as a task of the event loop, and any other handler in a thread.

        Args:
            calls: the records, each with its handler.

        """
        coroutines = []
        for call in calls:
            if call.wrapped.call_async is not None:
                coroutines.append(self._await(call, call.wrapped.call_async))
                continue
            if self._pool is None:
                threads = self._clock.threads
                self._pool = threads.pool("feedbus handler", self._max_calls, note_coroutines)
            self._pool.submit(self._call, call)
        if coroutines:
            self._resources.loop.start(coroutines)

    def close(self) -> None:
        """Wait until no call runs, and end the threads in which handlers are called.

        ConcurrentCalls calls this at the end of the consumer's run.
        """
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.waker.close()

    def _call(self, call: RecordCall) -> None:
        try:
            call.publications = self._handlers.collect(call.wrapped, call.records)
        except BaseException as error:  # noqa: BLE001 -- classified in the consumer's thread
            call.error = error
        self._report(call)

    async def _await(self, call: RecordCall, async_call: AsyncCall) -> None:
        collected = self._handlers.collect_async(async_call, call.records)
        try:
            call.publications = await limit(collected, self._timeout_seconds)
        except BaseException as error:  # noqa: BLE001 -- as above
            call.error = error
        self._report(call)

    def _report(self, call: RecordCall) -> None:
        """Register the end of a call; this runs in the thread of the call."""
        call.seconds = self._clock.monotonic() - call.started_at
        call.has_ended = True
        self.ended_calls.append(call)
        self.waker.wake()
