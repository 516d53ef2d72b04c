"""The calls that run at the same time: in threads, or as tasks of the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from feedbus.clock import Clock
from feedbus.dispatch.concurrent_records import Work
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

    Attributes:
        ended: the records whose calls have ended; other threads append to it.
        waker: wakes the consumer's thread when a call has ended.

    """

    def __init__(
        self, calls: HandlerCalls, queue: Queue, resources: Resources, clock: Clock
    ) -> None:
        """Start without calls.

        Args:
            calls: calls the handlers.
            queue: determines how many calls may run at the same time, and for how long.
            resources: has the event loop.
            clock: starts the threads.

        """
        self._handlers = calls
        self._most = queue.concurrency
        self._timeout_seconds = queue.handler_timeout_seconds
        self._resources = resources
        self._clock = clock
        self._pool: Pool | None = None
        self.ended: deque[Work] = deque()
        self.waker = Waker()

    def start(self, works: Sequence[Work]) -> None:
        """Start the calls of records."""
        awaited = []
        for work in works:
            if work.wrapped.call_async is not None:
                awaited.append(self._await(work, work.wrapped.call_async))
                continue
            if self._pool is None:
                threads = self._clock.threads
                self._pool = threads.pool("feedbus handler", self._most, note_coroutines)
            self._pool.submit(self._call, work)
        if awaited:
            self._resources.loop.start(awaited)

    def close(self) -> None:
        """End the threads when no call runs."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.waker.close()

    def _call(self, work: Work) -> None:
        try:
            work.publications = self._handlers.collect(work.wrapped, work.records)
        except BaseException as error:  # noqa: BLE001 -- classified in the consumer's thread
            work.error = error
        self._report(work)

    async def _await(self, work: Work, call: AsyncCall) -> None:
        collected = self._handlers.collect_async(call, work.records)
        try:
            work.publications = await limit(collected, self._timeout_seconds)
        except BaseException as error:  # noqa: BLE001 -- as above
            work.error = error
        self._report(work)

    def _report(self, work: Work) -> None:
        work.seconds = self._clock.monotonic() - work.started_at
        work.ended = True
        self.ended.append(work)
        self.waker.wake()
