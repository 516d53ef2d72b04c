"""The schema of a whole topology.toml, built from the schemas of its tables."""

from __future__ import annotations

from feedbus.config.broker_and_store_options import BrokerTable, StoreTable
from feedbus.config.broker_value_types import ContentType
from feedbus.config.exchange_options import ExchangeTable
from feedbus.config.option_types import Dotted, Name, Text
from feedbus.config.process_options import (
    LoggingTable,
    MiddlewareTable,
    OperationsTable,
    ProcessTable,
)
from feedbus.config.queue_options import QueueTable
from feedbus.config.schedule_options import ScheduleTable
from feedbus.config.table_types import Table, Tables, TableSchema

VAR = "var"  # the default of the option `var`


class DefaultsTable(TableSchema):
    """The schema of the table [defaults] of topology.toml, with the options that queues inherit."""

    what = "table"

    queue = Table(
        QueueTable,
        "Any queue option. A queue that sets the same option replaces the whole value.",
    )


class TopologyTable(TableSchema):
    """The schema of a whole topology.toml: each attribute is a table or a top-level option."""

    what = "key"

    name = Name(
        "The prefix of every name on the broker. No other project on the same broker and virtual"
        " host may have the same name.",
        required=True,
        example="shop",
    )
    var = Text("The folder of sockets, locks, logs and metric files.", default=f'"{VAR}"')
    broker = Table(BrokerTable, "Where the broker is.")
    store = Table(
        StoreTable,
        "The database to which the effects of handlers commit. Without this table, there is "
        "no store.",
    )
    exchanges = Tables(
        Table(ExchangeTable, "An exchange; the key is its name."),
        "The exchanges by name.",
        of="tables",
        required=True,
    )
    defaults = Table(DefaultsTable, "What queues inherit.")
    queues = Tables(
        Table(QueueTable, "A queue, or the queues of its shards; the key is its name."),
        "The queues by name.",
        of="tables",
        empty=False,
        required=True,
    )
    processes = Tables(
        Table(ProcessTable, "A supervised process; the key is its name."),
        "Supervised processes in addition to the consumers, by name.",
        of="tables",
    )
    codecs = Tables(
        Dotted("The codec of this content type.", example="app:Protobuf"),
        "The project's [codecs](handlers.md#codecs) by content type. A codec decodes and "
        "encodes bodies that are not JSON.",
        of="dotted names",
        keys=ContentType(""),
        example={"application/x-protobuf": "app:Protobuf"},
    )
    middleware = Table(MiddlewareTable, "Code that runs around each call of a handler.")
    schedules = Tables(
        Table(ScheduleTable, "A schedule; the key is its name."),
        "[Messages](../how-to/scheduling.md) that are published at the moments of a cron "
        "expression, by name.",
        of="tables",
    )
    operations = Table(OperationsTable, "Metrics, health and the operations page.")
    logging = Table(LoggingTable, "The form of log lines.")
    commands = Tables(
        Dotted("The click command of this name.", example="app:report"),
        "The project's own click commands: `feedbus NAME`.",
        of="dotted names",
        example={"report": "app:report"},
    )


# The declaration of the whole file.
DECLARATION = TopologyTable()
