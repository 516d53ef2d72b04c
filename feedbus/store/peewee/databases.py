"""Select the database of the peewee store by its URL."""

from __future__ import annotations

from contextlib import nullcontext

from feedbus.clock import Waiting
from feedbus.errors import UsageError
from feedbus.store.peewee.lazy_transactions import Database
from feedbus.store.peewee.postgresql import make_postgresql
from feedbus.store.peewee.sqlite import make_sqlite
from feedbus.urls import StoreUrl, UrlError, parse_store_url


def parsed(url: StoreUrl | str) -> StoreUrl:
    """Return the parsed URL of a store.

    Args:
        url: sqlite:////absolute/path or postgresql://user@host/name.

    Raises:
        UsageError: the URL is not the URL of a store.
    """
    if isinstance(url, str):
        try:
            url = parse_store_url(url)
        except UrlError as error:
            msg = f"store url: {error}"
            raise UsageError(msg) from None
    if url.file is not None and not url.file.is_absolute():
        msg = f"store url: expected sqlite:////absolute/path, got '{url}'"
        raise UsageError(msg)
    return url


def make_database(
    url: StoreUrl, application_name: str, *, waiting: Waiting = nullcontext
) -> Database:
    """Return the database of a URL, not yet connected.

    Args:
        url: the URL, from parsed(); libpq's parameters in its query string override the defaults of
            feedbus.
        application_name: the name of the connections in PostgreSQL's list.
        waiting: makes a context manager around each wait for the lock of the SQLite file, so that
            the wait does not count for the time limit of a handler.
    """
    if url.file is None:
        return make_postgresql(url, application_name)
    return make_sqlite(url.file, waiting)
