"""The application of a rolling upgrade: feedbus 0.1 and this version both run it."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from feedbus import Bus, handler

try:
    from feedbus.store.peewee import PeeweeStore, bind, close_bound, database
except ImportError:  # in 0.1
    from feedbus.outbox import database

    from feedbus import outbox

    def prepare(topology: Any) -> None:
        """Create the tables; with 0.1, the project also creates the tables of feedbus."""
        outbox.open_store(topology.store_url)
        outbox.create_tables()
        create()
        outbox.close_store()
else:

    def prepare(topology: Any) -> None:
        """Create the tables."""
        bind(PeeweeStore(topology.store_url))
        create()
        close_bound()


def create() -> None:
    """Create the table of effects, if it is missing."""
    database.execute_sql(
        "CREATE TABLE IF NOT EXISTS effects (sequence BIGSERIAL PRIMARY KEY, stage TEXT, key TEXT,"
        " number BIGINT, attempt INTEGER)"
    )


class Numbered(Schema):
    """The number of a key."""

    key = fields.String(required=True)
    number = fields.Integer(required=True)


@handler(Numbered)
def update(message: dict[str, Any], bus: Bus) -> None:
    """Write the effect of a record, and publish a notice."""
    write("update", message)
    bus.publish("notices", {"key": message["key"], "number": message["number"]}, message["key"])


@handler(Numbered)
def notice(message: dict[str, Any], bus: Bus) -> None:
    """Write the effect of a notice."""
    write("notice", message)


def write(stage: str, message: dict[str, Any]) -> None:
    """Write a row."""
    database.execute_sql(
        "INSERT INTO effects (stage, key, number) VALUES (%s, %s, %s)",
        (stage, message["key"], message["number"]),
    )
