"""A connection of Kombu that is opened once: if it is lost, it stays lost.

Kombu opens a lost connection again when a channel is requested. For feedbus this would be wrong: a
lock, an exclusive queue and unacknowledged deliveries belong to the lost connection. If Kombu
opened another connection, the caller would continue without its lock.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.connection import Connection


class SingleConnection(Connection):
    """Kombu's connection without Kombu's reconnecting.

    feedbus.broker.connect() creates such a connection. A caller that needs a new connection after a
    loss calls connect() again.

    Example:
        >>> connection = SingleConnection(transport=Transport, virtual_host="/var/broker.db")
        >>> connection.ensure_connection(max_retries=0)

    """

    _was_opened = False

    def _ensure_connection(self, *arguments: Any, **options: Any) -> Any:
        # All ways to open a connection lead here: connect(), channel(), default_channel and others.
        if self._was_opened and not self.connected:
            msg = "the connection was lost"
            raise RecoverableConnectionError(msg)
        raw = super()._ensure_connection(*arguments, **options)
        self._was_opened = True
        return raw
