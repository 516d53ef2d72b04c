"""A connection to the embedded broker: its channels, and the events that it receives."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

import amqp
from amqp.exceptions import ConsumerCancelled

from feedbus.transports.sqlite.channel import Channel
from feedbus.transports.sqlite.claimed_messages import ClaimedMessages
from feedbus.transports.sqlite.connection_backend import Backend
from feedbus.transports.sqlite.consumers import Consumer
from feedbus.transports.sqlite.queued_messages import put_back
from feedbus.transports.sqlite.registered_connection import RegisteredConnection

if TYPE_CHECKING:
    from kombu.connection import Connection as Client

BASIC_CANCEL = (60, 30)


class Connection(RegisteredConnection):
    """A connection to the embedded broker; only one thread at a time may use it.

    Args:
        backend: the tables of the broker, with the objects for time, wake-ups and locks.
        confirm_publish: whether each publish returns only when its message is stored durably.
        client: the `kombu.Connection` that has opened this connection; None outside of Kombu.

    Attributes:
        channel_type: the class of its channels.
    """

    channel_type: type[Channel] = Channel
    # The classes of the connection's errors; Kombu reads them by these names of py-amqp.
    connection_errors = (*amqp.Connection.connection_errors, sqlite3.OperationalError)
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = (
        *amqp.Connection.recoverable_connection_errors,
        sqlite3.OperationalError,
    )
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    def __init__(
        self,
        backend: Backend,
        *,
        confirm_publish: bool = False,
        client: Client | None = None,
    ) -> None:
        """Create and open a connection.

        Args:
            backend: the backend with the broker's tables; used only by this connection.
            confirm_publish: whether each publish waits until its message is stored durably.
            client: Kombu's connection, in which Kombu records the objects that it has declared.

        """
        super().__init__(backend)
        self.client = client
        self.channels: dict[int, Channel] = {}
        self._confirm_publish = confirm_publish
        self._claimed = ClaimedMessages(self)

    @property
    def wakes_on_signals(self) -> bool:
        """Whether a handled signal ends the wait of drain_events() in the calling thread.

        The result is True only in the main thread. feedbus's runner reads this property to decide
        how long one wait may be.
        """
        return threading.current_thread() is threading.main_thread()

    def channel(self) -> Channel:
        """Open another channel, and return it."""
        self.check_open()
        number = max(self.channels, default=0) + 1
        channel = self.channel_type(
            self,
            number,
            self._claimed,
            confirm_publish=self._confirm_publish,
            on_close=lambda number: self.channels.pop(number, None),
        )
        self.channels[number] = channel
        return channel

    def drain_events(self, timeout: float | None = None) -> None:
        """Process one event: report confirms and returned messages, or deliver one message.

        Args:
            timeout: seconds to wait for an event; None to wait without a limit.

        Raises:
            TimeoutError: no event occurred in time, a signal's handler ran meanwhile, or the
                descriptor of wake_on() is readable.
            FileUnavailable: the broker's tables cannot be read or written.
            ConsumerCancelled: the queue of a consumer without on_cancel was deleted.

        """
        self.check_open()
        for channel in list(self.channels.values()):
            channel.flush()
            if channel.report():
                return
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        while True:
            if self._claimed.deliver_next():
                return
            happened = self.check()
            if self._claimed.fetch():
                continue
            self.end_for_signal(happened)
            self.sleep(deadline)

    def take_arrived(self) -> None:
        """Process the events that have arrived, without waiting, and deliver the claimed messages.

        It claims no further messages. feedbus calls it while a handler runs or messages are
        published.

        Raises:
            RecoverableConnectionError: this connection is closed, or was treated as dead.
        """
        super().take_arrived()
        while self._claimed.deliver_next():
            pass

    def refresh(self) -> None:
        """Read again which connections exist, and which consumers of this connection have ended.

        A consumer ends when its queue is deleted. Then its callback on_cancel is called.

        Raises:
            ConsumerCancelled: an ended consumer has no callback on_cancel.
            RecoverableConnectionError: other connections have treated this connection as dead.
        """
        super().refresh()
        living = self.tables.read("SELECT id FROM consumers WHERE owner = ?", (self.owner,))
        ended = self._claimed.consumers.keys() - {consumer_id for (consumer_id,) in living}
        for consumer_id in ended:
            self._cancelled(self._claimed.consumers[consumer_id])

    def _cancelled(self, consumer: Consumer) -> None:
        self._claimed.forget(consumer)
        if consumer.on_cancel is None:
            self.read_connections_again()  # other consumers may have ended, too
            raise ConsumerCancelled(consumer.tag, BASIC_CANCEL)
        consumer.on_cancel(consumer.tag)

    def close(self) -> None:
        """Close all channels; unsettled deliveries return to their queues.

        A second call does nothing.
        """
        if not self.connected:
            return
        try:
            for channel in list(self.channels.values()):
                channel.flush()
            unseen = self._claimed.undelivered_ids()
            if unseen and self.owner is not None:
                with self.write() as tx:
                    put_back(tx, self.owner, unseen, delivered=False)
        except BaseException:
            self.collect()
            raise
        super().close()

    def collect(self) -> None:
        """Close without writing to the file; for other connections, this is the same as a crash.

        Kombu and feedbus call this method for a lost connection. Otherwise they call close().
        """
        self._forget_channels()
        super().collect()

    def close_in_child(self) -> None:
        """Close the copy of the connection in a forked child; the parent's connection stays open.

        It is called after each fork, by a hook of `os.register_at_fork()`.
        """
        self._forget_channels()
        super().close_in_child()

    def _forget_channels(self) -> None:
        for channel in self.channels.values():
            channel.is_open = False
        self.channels.clear()
        self._claimed.clear()
