"""A store with psycopg 3: each thread has a connection, which handlers get as a parameter."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg

from feedbus.errors import StoreOutage
from feedbus.store.sql import SqlStore, refuse_failed_transaction
from feedbus.store.tables import Cursor
from feedbus.topology import Topology


class PsycopgStore(SqlStore):
    """Transactions of psycopg connections; a handler gets its connection by annotation."""

    session_type = psycopg.Connection

    def __init__(self, url: str, project: str, where: str) -> None:
        super().__init__(project, where, "postgresql")
        self._url, self._local, self._opened = url, threading.local(), list[psycopg.Connection]()

    @property
    def in_transaction(self) -> bool:
        return getattr(self._local, "begun", False)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        if self.in_transaction:
            yield self._local.connection  # join the transaction that is under way
            return
        connection = getattr(self._local, "connection", None)
        try:
            if connection is None or connection.closed:
                # With autocommit, only transaction() below begins a transaction.
                connection = psycopg.connect(self._url, connect_timeout=5, autocommit=True)
                self._local.connection = connection
                self._opened.append(connection)
            self._local.begun = True
            with connection.transaction():
                yield connection
                connection.fileno()  # raises if the handler has closed it
                status = connection.info.transaction_status
                refuse_failed_transaction(status, "connection.transaction()")
        except psycopg.Error as error:
            if not self.is_outage(error):
                raise
            raise StoreOutage(self.describe(error)) from error
        finally:
            self._local.begun = False

    def execute(self, sql: str, parameters: Mapping[str, object]) -> Cursor:
        with self.transaction() as connection:
            return connection.execute(re.sub(r":(\w+)", r"%(\1)s", sql), parameters)

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


def open_store(topology: Topology) -> PsycopgStore:
    """Return the store of a topology with `adapter = "psycopg_store:open_store"`."""
    url = topology.store_url
    return PsycopgStore(url.reveal() if url else "", topology.name, str(url))
