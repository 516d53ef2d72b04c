"""Open the store that a topology names."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from feedbus.clock import Waiting
from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.handling.imported_objects import resolve_object
from feedbus.process.slow_server_notices import notices
from feedbus.store.no_store import NoStore
from feedbus.store.protocol import Store
from feedbus.store.sql import SqlStore
from feedbus.topology import PEEWEE, SQLALCHEMY, StoreOptions, Topology
from feedbus.wrong_argument import refuse


def open_store(
    topology: Topology, *, application_name: str = "feedbus", waiting: Waiting = nullcontext
) -> Store:
    """Return the store of a topology; it connects at the first use.

    With peewee, the project's models use this store. A process has one peewee database for its
    models: several stores with the same URL share it, and close() of the last one closes it.

    Args:
        topology: the topology of the system.
        application_name: the name of the connections in PostgreSQL's list. It is used only with
            peewee: an engine of SQLAlchemy belongs to the project.
        waiting: makes a context manager around each wait for the lock of the SQLite file, so that
            the wait does not count for the time limit of a handler.

    Raises:
        UsageError: the store cannot be opened as the topology declares it. Or, with peewee, another
            database is open for the models.
    """
    store = _make(topology, application_name, waiting)
    if topology.store is not None and topology.store.adapter == PEEWEE:
        from feedbus.store.peewee import PeeweeStore, open_or_share

        assert isinstance(store, PeeweeStore)  # noqa: S101 -- for the type checker
        open_or_share(store)
    return store


def open_prepared(topology: Topology) -> Store:
    """Open the store of a topology, create or upgrade its tables, and return it.

    The option `prepare` of [store] names a function of the project. This function is called before
    feedbus's own tables are created. The project's models can use the store in this function.
    Peewee stores that the function opens and does not close are closed after it.

    Raises:
        StoreOutage: the store is unavailable, or cannot be written to.
        UsageError: the store cannot be opened as the topology declares it, or its tables belong to
            a newer version.
        Exception: any other exception that the function of `prepare` raises.

    """
    store = open_store(topology)
    try:
        if topology.store is not None and topology.store.prepare is not None:
            _prepare(topology.store.prepare, topology, store)
        with notices.during(f"waiting for store {topology.store} to prepare feedbus's tables"):
            store.set_up()
    except BaseException:
        store.close()
        raise
    return store


def ping(topology: Topology) -> str:
    """Check whether the store of a topology answers.

    The function opens a Store object only for this check, and closes it.

    Returns:
        Why this version of feedbus cannot use the store, or "" if it can.

    Raises:
        StoreOutage: the store does not answer; the text has the reason and what to do.
        UsageError: the store cannot be opened as the topology declares it.

    """
    store = _make(topology, "feedbus ping", nullcontext)
    try:
        with notices.during(f"waiting for store {topology.store} to answer"):
            store.ready()
        return store.refusal() if isinstance(store, SqlStore) else ""
    finally:
        store.close()


def load_driver(topology: Topology) -> None:
    """Import the libraries that open_store() needs, but no module of the project.

    The process that forks the consumers calls this, so that the consumers start faster.

    Raises:
        UsageError: the store cannot be opened as the topology declares it.

    """
    if topology.store is not None and topology.store.adapter == PEEWEE:
        _make_peewee(topology.store, topology.name, "", nullcontext)  # it does not connect
    elif topology.store is not None and topology.store.adapter == SQLALCHEMY:
        _load_sqlalchemy()


def _prepare(prepare: str, topology: Topology, store: Store) -> None:
    """Call the function of `prepare`; afterwards, close the peewee stores that it has opened.

    The models then use the given store again, if it is a peewee store.
    """
    if topology.store is None or topology.store.adapter != PEEWEE:
        _call(prepare, topology, store)
        return
    from feedbus.store.peewee.store import PeeweeStore, bind, closing_new_stores

    assert isinstance(store, PeeweeStore)  # noqa: S101 -- for the type checker
    with closing_new_stores():
        _call(prepare, topology, store)
    bind(store)


def _call(prepare: str, topology: Topology, store: Store) -> None:
    """Call the function that the option `prepare` of [store] names.

    An exception of the function that means an outage of the database is raised as StoreOutage.
    """
    try:
        resolve_object(prepare, topology.root)(topology)
    except Outage:
        raise
    except Exception as error:
        where = f"[store] prepare = '{prepare}'"
        if isinstance(store, SqlStore) and store.is_outage(error):
            msg = f"{where}: {store.describe(error)}"
            raise StoreOutage(msg) from error
        error.add_note(f"{where} has raised this exception")
        raise


def check_is_store(given: object) -> None:
    """Raise TypeError if the argument `store` of a public function is not a store.

    A frequent mistake is to give the database itself, or an Engine.
    """
    if not callable(getattr(given, "set_up", None)):
        refuse("store", "an open store of feedbus.store, or None", given)


def _make(topology: Topology, application_name: str, waiting: Waiting) -> Store:
    store = _make_with_adapter(topology, application_name, waiting)
    if isinstance(store, SqlStore):
        store.outbox.check_exchanges(topology)
    return store


def _make_with_adapter(topology: Topology, application_name: str, waiting: Waiting) -> Store:
    options = topology.store
    if options is None:
        return NoStore()
    if options.adapter == PEEWEE:
        return _make_peewee(options, topology.name, application_name, waiting)
    if options.adapter == SQLALCHEMY:
        return _make_sqlalchemy(topology, options, waiting)
    store: Store = resolve_object(options.adapter, topology.root)(topology)
    return store


def _make_peewee(
    options: StoreOptions, project: str, application_name: str, waiting: Waiting
) -> Store:
    if options.url is None:
        msg = (
            "[store] url: expected sqlite:///FILE or postgresql://…, got none, or an unset variable"
        )
        raise UsageError(msg)
    try:
        from feedbus.store.peewee import PeeweeStore
    except ImportError as error:
        msg = f"the store needs peewee ({error}): pip install peewee"
        raise UsageError(msg) from error
    return PeeweeStore(options.url, project, application_name=application_name, waiting=waiting)


def _make_sqlalchemy(topology: Topology, options: StoreOptions, waiting: Waiting) -> Store:
    _load_sqlalchemy()
    import sqlalchemy

    from feedbus.store.sqlalchemy import SqlAlchemyStore

    engine = resolve_object(options.engine or "", topology.root)
    if not isinstance(engine, sqlalchemy.Engine):
        got = f"{options.engine}, a {type(engine).__name__}"
        msg = f"[store] engine: expected an Engine of SQLAlchemy, got {got}"
        raise UsageError(msg)
    if engine.dialect.name == "sqlite":
        _check_path(engine.url.database or "", topology.root)
    return SqlAlchemyStore(engine, topology.name, waiting=waiting)


def _check_path(file: str, root: Path) -> None:
    """Raise UsageError if a consumer would use another SQLite file than this process.

    This is so if the path is relative and the working directory is not the topology's folder. A
    consumer's working directory is always the topology's folder.
    """
    if not file or file.startswith((":", "file:")) or Path(file).is_absolute():
        return
    if Path.cwd() != root:
        msg = (
            f"[store] engine: its file '{file}' is relative to the working directory, which is"
            f" {Path.cwd()} here and {root} for consumers: make it absolute in the engine's URL,"
            f' for example by Path(__file__).with_name("{Path(file).name}")'
        )
        raise UsageError(msg)


def _load_sqlalchemy() -> None:
    try:
        import feedbus.store.sqlalchemy  # noqa: F401 -- only the import of the module is needed
    except ImportError as error:
        msg = f"the store needs SQLAlchemy ({error}): pip install 'feedbus[sqlalchemy]'"
        raise UsageError(msg) from error
