"""The bus of a program that runs an event loop: FastAPI, Starlette, aiohttp."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, Unpack

from feedbus.bus.live_bus import TIMEOUT_SECONDS, LiveBus
from feedbus.bus.publish_requests import Request, refuse_closed
from feedbus.bus.record_encoding import pack_pairs
from feedbus.metrics import Metrics
from feedbus.records.packs import Pack, pack_of_one
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import NO_KEY, check_many, check_record, taken, without_key
from feedbus.records.publish_options import envelope_of
from feedbus.topology import Topology
from feedbus.wire.message_options import Envelope, PublishOptions


@dataclass(frozen=True, slots=True)
class _Job:
    """A job for the thread of the bus: to send requests, or to close the connection.

    Attributes:
        requests: the requests to send, in order; empty for a job that closes the connection.
        loop: the event loop of the task that waits for the job.
        done: gets the result None when the job has ended.
        is_last: whether the thread closes the connection after this job.

    """

    requests: Sequence[Request]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    is_last: bool = False

    def end(self) -> None:
        """Wake the task that waits, unless the task was cancelled or the loop is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class AsyncBus:
    """A bus whose methods are awaited; feedbus.connect_async() returns one.

    The bus has a thread that encodes, sends and waits, so the event loop is never blocked. Messages
    that several tasks publish at the same time are sent together, with one wait for their confirms.
    A cancelled task stops waiting; its messages may arrive anyway. A program usually creates one
    bus, and closes the bus before the program ends.
    """

    # How many pairs publish_many() packs before other tasks of the event loop can run.
    PAIRS_AT_ONCE = 1_000

    def __init__(
        self,
        topology: Topology,
        metrics: Metrics | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Create a bus; it connects at the first publish.

        Args:
            topology: the topology of the system.
            metrics: counts the records.
            timeout_seconds: how long to try again during an outage of the broker.

        """
        self._topology = topology
        self._is_closed = False
        self._bus = LiveBus(topology, metrics, timeout_seconds=timeout_seconds)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        """Return the bus itself."""
        self._is_closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection; from now on, a publish raises UsageError."""
        self._is_closed = True
        await self.close()

    async def publish(
        self,
        exchange: str,
        payload: Payload,
        key: str = NO_KEY,
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Publish one record; return when the broker has confirmed it.

        Args:
            exchange: the name of the exchange in topology.toml.
            payload: the payload of the record.
            key: the routing key. For an exchange with shards it is required, because the key
                selects the shard. key="" is allowed there: all messages with this key go to the
                same shard. Without shards, the key is "" by default.
            message_id: the id of the record. A queue with `once = true` handles only one of several
                records with the same id. By default, the record gets an id that no other record
                has.
            options: `headers` maps names to texts, numbers, flags or None. `priority` is a number
                from 0 to 255. `expires` is the time for which the message may wait in a queue.
                `delay` is the time by which feedbus delays the message. Each of these two times is
                a text such as "10m", or a number of seconds.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: an option is out of its limits.
            UsageError: there is no such exchange, the record cannot be published, or the exchange
                has shards and there is no key.
            Unroutable: the message was returned, because no queue matches.
            PublishError: the broker refused the message, for example because a queue is full.
            BrokerOutage: the broker was unavailable for too long; the message may have arrived.

        """
        # The thread of the bus encodes the record later. Meanwhile, the caller may change the dict.
        fields = dict(check_record(exchange, payload, key, message_id))
        envelope = envelope_of(options, "message_id") if options else None
        if key is NO_KEY:
            key = without_key(exchange, has_shards=self._topology.exchange(exchange).hashed)
        await self._send(
            exchange, [pack_of_one(message_id or self._bus.unique(), key, fields)], envelope
        )

    async def publish_many(self, exchange: str, pairs: Iterable[tuple[Payload, str]]) -> int:
        """Publish (payload, routing key) pairs; return how many the broker has confirmed.

        Args:
            exchange: the name of the exchange in topology.toml.
            pairs: any iterable of (payload, routing key) pairs. The bus reads the pairs in groups,
                and only one group is in memory at a time.

        Raises:
            TypeError: an argument has a wrong type, or an item of pairs is not a pair.
            UsageError: there is no such exchange, or a record cannot be published.
            Unroutable: messages were returned, because no queue matches. All other messages before
                them were published; messages after them may not have been sent.
            PublishError: the broker refused messages; messages after them may not have been sent.
            BrokerOutage: the broker was unavailable for too long; messages without a confirm may
                have arrived.

        """
        check_many(exchange, pairs)
        origin, count, remaining = self._bus.unique(), 0, iter(pairs)
        while run := taken(pairs, remaining, count, self.PAIRS_AT_ONCE):
            await self._send(exchange, pack_pairs(run, f"{origin}.{count}", first=count))
            count += len(run)
        return count

    async def close(self) -> None:
        """Send the messages that tasks have published, and close the connection.

        After close(), a publish connects again. After an `async with` block, a publish raises
        UsageError.
        """
        if self._thread is not None and self._process == os.getpid():
            await self._put_job((), last=True)

    async def _send(
        self, exchange: str, packs: Sequence[Pack], envelope: Envelope | None = None
    ) -> None:
        if self._is_closed:
            refuse_closed()
        requests = [Request(exchange, pack, envelope) for pack in packs]
        await self._put_job(requests)
        for request in requests:
            request.raise_error()

    async def _put_job(self, requests: Sequence[Request], *, last: bool = False) -> None:
        if self._process != os.getpid():
            self._reset()  # this is a forked process, which does not have the thread of its parent
        loop = asyncio.get_running_loop()
        job = _Job(requests, loop, loop.create_future(), last)
        with self._lock:
            self._jobs.put(job)
            if self._thread is None:
                # The thread is a daemon: the interpreter ends without waiting for the thread.
                self._thread = threading.Thread(target=self._run_jobs, name="feedbus", daemon=True)
                self._thread.start()
        await job.done

    def _run_jobs(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            with suppress(queue.Empty):
                while not jobs[-1].is_last:
                    jobs.append(self._jobs.get_nowait())
            requests = [request for job in jobs for request in job.requests]
            if requests:
                self._send_together(requests)
            if jobs[-1].is_last:
                self._bus.close()
            # _put_job() holds the same lock. So a new job is seen here, or starts a new thread.
            with self._lock:
                over = jobs[-1].is_last and self._jobs.empty()
                if over:
                    self._thread = None
            for job in jobs:
                job.end()
            if over:
                return

    def _send_together(self, requests: Sequence[Request]) -> None:
        """Send requests; an error becomes the outcome of the requests that have none yet."""
        try:
            self._bus.send_together(requests)
        except Exception as error:  # noqa: BLE001 -- the tasks that wait raise it
            for request in requests:
                if request.outcome is None:
                    request.outcome = error
