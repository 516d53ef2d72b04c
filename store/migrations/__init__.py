"""Apply and revert migrations of the store's tables, in one process at a time.

Each migration is a numbered file of this folder with up() and down(), run by peewee's own runner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peewee
from playhouse.migrations import MigrationError, Runner

from feedbus.errors import FeedbusError, Outage, UsageError
from feedbus.logs import EventLog
from feedbus.store.peewee import PeeweeStore, bind
from feedbus.topology import Topology
from feedbus.urls import StoreUrl

events = EventLog(__name__)

FOLDER = Path(__file__).parent
WAIT_SECONDS = 120.0


class CannotMigrate(FeedbusError):  # noqa: N818 -- says what cannot be done
    """A migration does not exist, cannot be reverted, or has failed and was rolled back."""


@dataclass(frozen=True, slots=True)
class Step:
    """One migration of the store's tables, as `feedbus migrate status` lists it.

    Attributes:
        name: the name of its file, without ".py".
        applied: the local time when it was applied, as text; "" if it was not.

    """

    name: str
    applied: str


def migrate(topology: Topology) -> None:
    """Create or upgrade the tables; topology.toml names this function as `prepare` of the store.

    Several processes can call it at the same time: one does the work, and the others wait.

    Raises:
        Outage: the store is unavailable, or another process has been migrating for two minutes.
        CannotMigrate: a migration has failed; it was rolled back.

    """
    forward(url_of(topology))


def url_of(topology: Topology) -> StoreUrl:
    """Return the URL of the topology's store, whose tables the migrations create and change.

    Raises:
        UsageError: the topology has no URL of a store.

    """
    if topology.store_url is None:
        msg = "[store] url: expected sqlite:///FILE or postgresql://…, got none"
        raise UsageError(msg)
    return topology.store_url


def forward(url: StoreUrl | str, target: str | None = None) -> list[str]:
    """Apply the pending migrations; return the names of those that were applied.

    Args:
        url: the URL of the store.
        target: the name of the last migration to apply; None to apply all.

    Raises:
        Outage: the store is unavailable, or another process has been migrating for two minutes.
        CannotMigrate: the migration `target` does not exist, or a migration has failed and was
            rolled back.

    """
    with _runner(url) as runner:
        applied: list[str] = runner.up(target)
    for name in applied:
        events.info("migrated", f"migration {name} was applied", name=name)
    return applied


def back(url: StoreUrl | str, target: str | None = None) -> list[str]:
    """Revert migrations; return the names of those that were reverted.

    Args:
        url: the URL of the store.
        target: the name of the earliest migration to revert; None to revert only the last one.

    Raises:
        Outage: the store is unavailable, or another process has been migrating for two minutes.
        CannotMigrate: the migration `target` does not exist, or a migration cannot be reverted.

    """
    with _runner(url) as runner:
        reverted: list[str] = runner.down(target)
    for name in reverted:
        events.info("reverted", f"migration {name} was reverted", name=name)
    return reverted


def steps(url: StoreUrl | str) -> list[Step]:
    """Return every migration in order, also applied ones whose file is missing.

    Args:
        url: the URL of the store.

    Raises:
        Outage: the store is unavailable.

    """
    with _opened(url) as store:
        return [
            Step(each.name, f"{each.applied:%Y-%m-%d %H:%M:%S}" if each.applied else "")
            for each in Runner(store.database, str(FOLDER)).status()
        ]


@contextmanager
def _runner(url: StoreUrl | str) -> Iterator[Runner]:
    failure: Exception | None = None
    with _opened(url) as store:
        with store.exclusive("migrate", wait_seconds=WAIT_SECONDS) as held:
            if not held:
                msg = (
                    f"another process has been migrating the store for {WAIT_SECONDS:.0f} s;"
                    " try again when it has ended"
                )
                raise Outage(msg)
            if store.on_postgres:  # a migration may take its time
                store.database.execute_sql("SET LOCAL statement_timeout = 0")
            try:
                yield Runner(store.database, str(FOLDER))
            except Exception as error:  # noqa: BLE001 -- raised when what went well is committed
                failure = error
        if failure is not None:
            raise failure


@contextmanager
def _opened(url: StoreUrl | str) -> Iterator[PeeweeStore]:
    """Open the store in a `with` block; convert its errors into errors for the operator."""
    store = bind(PeeweeStore(url, application_name="feedbus migrate"))
    try:
        store.ready()
        yield store
    except MigrationError as error:
        msg = f"cannot migrate: {error}"
        raise CannotMigrate(msg) from error
    except peewee.PeeweeException as error:
        kind = Outage if store.is_outage(error) else CannotMigrate
        msg = f"cannot migrate: {error}"
        raise kind(msg) from error
    finally:
        store.close()
