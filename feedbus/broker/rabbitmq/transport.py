"""py-amqp's connection with a time limit for answers and a check of heartbeats."""

from __future__ import annotations

import select
import struct
import time
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import pyamqp

from feedbus.broker.rabbitmq import frames
from feedbus.broker.rabbitmq.background_heartbeats import BackgroundHeartbeats
from feedbus.clock import SYSTEM, Clock
from feedbus.process.fork_safety import close_in_forks

READ_AHEAD_BYTES = 16_384
FRAME_HEADER = struct.Struct(">BHI")  # type, channel, bytes
FRAME_END = 0xCE
# The shortest timeout of a read. With a timeout of 0, py-amqp would read again and again without
# waiting, while only a part of a frame has arrived.
SHORTEST_SECONDS = 0.0001
STEP_SECONDS = 1.0  # during a wait for an answer, heartbeats are checked this often
ANSWER_SECONDS = 40.0  # how long to wait for the broker's answer to a method
CLOSE_SECONDS = 5.0  # the same for the close of a connection
# A connection is lost after this number of heartbeat intervals in which the broker sent nothing. A
# broker sends a heartbeat at least once in each interval.
SILENT_INTERVALS = 2


class Connection(frames.Connection):
    """A connection on which no call waits forever for a peer that does not answer.

    The class replaces three behaviours of py-amqp:

    - py-amqp waits without a limit for the answer to a method.
    - When a heartbeat arrives, py-amqp starts the timeout of its wait again.
    - py-amqp opens a closed connection again at the next use.

    Args:
        arguments: the arguments of py-amqp's connection.
        background_heartbeats: whether a thread sends the heartbeats; otherwise the caller does.
        options: the options of py-amqp's connection.
    """

    clock: Clock = SYSTEM
    is_blocked = False
    _background: BackgroundHeartbeats | None = None

    def __init__(
        self, *arguments: Any, background_heartbeats: bool = False, **options: Any
    ) -> None:
        """Create a connection.

        Args:
            arguments: the arguments of py-amqp's connection.
            background_heartbeats: whether a thread of the connection sends its heartbeats.
            options: the options of py-amqp's connection.

        """
        super().__init__(*arguments, **options)
        self._background_heartbeats = background_heartbeats

    def connect(self, callback: Any = None) -> Any:
        """Open the connection; later reads take more bytes than requested, if they have arrived.

        Kombu's transport calls it.

        Args:
            callback: called by py-amqp when the connection is open; None for no call.
        """
        self._answer_seconds = ANSWER_SECONDS
        self._wakers: select.poll | None = None
        # The number of frames received until the last check (py-amqp's attribute bytes_recv, which
        # counts frames in spite of its name), and when a check last found a new number.
        self._heard_frames, self._heard_at = 0, time.monotonic()
        result = super().connect(callback)
        transport: Any = self._transport
        receive = transport._quick_recv  # noqa: SLF001 -- the only way to read more than is asked for
        # py-amqp requests the header, the body and the last byte of a frame separately. A read that
        # returns more bytes saves the next reads: py-amqp keeps these bytes.
        transport._quick_recv = lambda count: receive(max(count, READ_AHEAD_BYTES))  # noqa: SLF001 -- as above
        close_in_forks(transport.sock)
        self._arrivals = select.poll()
        self._arrivals.register(transport.sock, select.POLLIN)
        if self._background_heartbeats and self.heartbeat:
            self._background = BackgroundHeartbeats(transport, self.heartbeat)
        return result

    def collect(self) -> None:
        """Close the socket without AMQP's close handshake; called if the connection is lost."""
        if self._background is not None:
            self._background.stop()
        super().collect()

    def wake_on(self, descriptor: int) -> None:
        """Make drain_events() raise TimeoutError as soon as a descriptor can be read.

        feedbus's runner uses it, so that another thread can end the runner's wait.
        """
        self._wakers = select.poll()
        self._wakers.register(descriptor, select.POLLIN)
        self._wakers.register(self._open_transport().sock, select.POLLIN)

    def drain_events(self, timeout: float | None = None) -> None:
        """Process one method or message.

        Args:
            timeout: seconds to wait. None means that py-amqp waits for the answer to a method; the
                limit is then 40 s, or 5 s during a close.

        Raises:
            TimeoutError: nothing was received in time, or the descriptor of wake_on() can be read.
            RecoverableConnectionError: the connection is closed, or the broker is silent.
        """
        if timeout is None:
            self._await_answer()
            return
        if timeout <= 0 and not self._has_arrived():
            # This case must be fast: py-amqp calls drain_events(0) before each publish.
            msg = "nothing has arrived"
            raise TimeoutError(msg)
        if self._wakers is not None and not self._has_arrived():
            self._wakers.poll(max(timeout, 0) * 1000)
            if not self._has_arrived():
                self._check_heard()
                msg = "woken, or nothing has arrived"
                raise TimeoutError(msg)
        self._drain(timeout)

    def _drain(self, timeout: float) -> None:
        try:
            self._read_until(time.monotonic() + timeout)
        except TimeoutError:
            self._check_heard()
            raise

    def _read_until(self, deadline: float) -> None:
        while not self._read(deadline - time.monotonic()):
            # The frame was a heartbeat or a part of a message. At the deadline, the rest of the
            # message may already be in the buffer. So the loop ends only if the buffer is empty.
            if time.monotonic() >= deadline and not self._transport._read_buffer:  # noqa: SLF001 -- py-amqp has no public name for it
                msg = "timed out: no data arrived from RabbitMQ"
                raise TimeoutError(msg)

    def take_arrived(self) -> None:
        """Process all frames that have arrived, without waiting for others.

        feedbus calls it while a handler runs or messages are published.

        Raises:
            RecoverableConnectionError: the connection is closed, or the broker is silent.
        """
        while self._has_arrived():
            try:
                self.drain_events(SHORTEST_SECONDS)
            except TimeoutError:
                break
            while (frame := self._next_frame()) is not None:
                self.on_inbound_frame(frame)
        self._check_heard()

    def _check_heard(self) -> None:
        """Close the connection if nothing was received for two heartbeat intervals.

        Callers first read everything that has arrived: unread data shows that the broker is alive.

        Raises:
            RecoverableConnectionError: nothing was received.

        """
        if not self.heartbeat:
            return
        now = time.monotonic()
        if self.bytes_recv != self._heard_frames:
            self._heard_frames, self._heard_at = self.bytes_recv, now
        elif now - self._heard_at > SILENT_INTERVALS * self.heartbeat:
            self._give_up(
                f"the broker has sent nothing for {now - self._heard_at:.0f} s, not even a"
                " heartbeat; feedbus connects again"
            )

    def close(self, *arguments: Any, **options: Any) -> Any:
        """Close by AMQP's handshake; wait at most 5 s for the answer of the broker.

        Args:
            arguments: the arguments of py-amqp's close().
            options: the options of py-amqp's close().
        """
        self._answer_seconds = min(self._answer_seconds, CLOSE_SECONDS)
        return super().close(*arguments, **options)

    def _on_blocked(self) -> None:
        self.is_blocked = True
        super()._on_blocked()

    def _on_unblocked(self) -> None:
        self.is_blocked = False
        super()._on_unblocked()

    def _await_answer(self) -> None:
        """Process one method or message; close the connection if none is received in time."""
        deadline = time.monotonic() + self._answer_seconds
        while True:
            try:
                self._drain(min(STEP_SECONDS, self._answer_seconds))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    self._give_up(
                        f"the broker did not answer a request within {self._answer_seconds:.0f} s"
                    )
            else:
                return

    def _read(self, seconds: float) -> Any:
        frame = self._next_frame()
        if frame is not None:
            return self.on_inbound_frame(frame)
        return self.blocking_read(max(seconds, SHORTEST_SECONDS))

    def _next_frame(self) -> tuple[int, int, bytes] | None:
        """Return the next frame as (type, channel, payload); None if it has not arrived completely.

        This code replaces py-amqp's, which takes five times as long.
        """
        transport = self._open_transport()
        read: bytes = transport._read_buffer  # noqa: SLF001 -- as above
        if len(read) < FRAME_HEADER.size:
            return None
        kind, channel, size = FRAME_HEADER.unpack_from(read)
        end = FRAME_HEADER.size + size
        if len(read) <= end or read[end] != FRAME_END:
            # py-amqp waits for the rest of the frame, or raises an error if the last byte is wrong.
            return None
        transport._read_buffer = read[end + 1 :]  # noqa: SLF001 -- as above
        return kind, channel, read[FRAME_HEADER.size : end]

    def _has_arrived(self) -> bool:
        return bool(self._open_transport()._read_buffer or self._arrivals.poll(0))  # noqa: SLF001 -- as above

    def _open_transport(self) -> Any:
        if self._transport is None or not self._transport.connected:
            msg = "the connection to the broker is closed"
            raise RecoverableConnectionError(msg)
        return self._transport

    def _give_up(self, reason: str) -> None:
        self.collect()  # AMQP's handshake would wait for the broker
        raise RecoverableConnectionError(reason)


class Transport(pyamqp.Transport):
    """Kombu's transport for RabbitMQ, with feedbus's Connection, on which no call waits forever."""

    Connection = Connection
