"""The options of [broker] and [store] in topology.toml."""

from __future__ import annotations

from feedbus import topology
from feedbus.config.option_types import Dotted, Duration
from feedbus.config.table_types import TableSchema
from feedbus.config.value_types import Adapter, Url
from feedbus.urls import (
    BROKER_SCHEMES,
    MANAGEMENT_SCHEMES,
    STORE_SCHEMES,
    parse_broker_url,
    parse_management_url,
    parse_store_url,
)

BROKER_URL = "sqlite:///var/broker.db"  # the default of `url` in [broker]
CONSUMER_TIMEOUT_SECONDS = 1800.0  # RabbitMQ's own default


class BrokerTable(TableSchema):
    """The schema of the table [broker] of topology.toml: each attribute is an option."""

    url = Url(
        "Where the broker is. `sqlite:///FILE` is the embedded broker; the path of the file is "
        "relative to this topology's folder. `amqp://` is RabbitMQ, `amqps://` the same over TLS. "
        "The nodes of a cluster are separated by `;`; they are tried in this order. "
        "`?heartbeat=SECONDS` sets the heartbeat of consumers, 12 by default; the `ssl_` options "
        "are described in [security](../security.md#tls).",
        parse_broker_url,
        *BROKER_SCHEMES,
        example="amqp://user:${PASSWORD}@rabbit.example//",
        default=f'"{BROKER_URL}"',
    )
    management = Url(
        "The URL of RabbitMQ's management API, which `feedbus plan` and `apply` use. If it has no "
        "user, they log in with the user of `url`. It has the same `ssl_` options as `url`. If "
        "`url` is `amqps://`, the management URL must be https, or on this machine.",
        parse_management_url,
        *MANAGEMENT_SCHEMES,
        example="https://rabbit.example:15671",
        default="on the host of `url`: port 15672, or 15671 with https for `amqps://`",
    )
    consumer_timeout = Duration(
        "How long RabbitMQ waits for an acknowledgement (`consumer_timeout` in its own "
        "configuration). `handler_timeout` must be shorter, and a consumer returns messages that "
        "it cannot handle within that time. The embedded broker waits without a limit, but feedbus "
        "uses the same value for it, so that the file also works with RabbitMQ.",
        attribute="consumer_timeout_seconds",
        default='"30m"',
    )


class StoreTable(TableSchema):
    """The schema of the table [store] of topology.toml: each attribute is an option."""

    builds = topology.StoreOptions

    adapter = Adapter(
        "The library of the store: peewee; SQLAlchemy, with the engine and the models of the "
        "project; or a [store of your own](../how-to/database.md#a-store-of-your-own), by "
        "the dotted name of a function that gets the topology and returns the store.",
        *(topology.PEEWEE, topology.SQLALCHEMY),
    )
    url = Url(
        "Where the store is: `sqlite:///FILE`, relative to this topology's folder, or any "
        "`postgresql://` URL of PostgreSQL's libpq.",
        parse_store_url,
        *STORE_SCHEMES,
        example="postgresql://user:${PASSWORD}@db.example/shop",
        default="needed by peewee",
    )
    engine = Dotted(
        "The project's SQLAlchemy engine. Only the adapter `sqlalchemy` uses it.",
        default="needed by sqlalchemy",
    )
    prepare = Dotted(
        "A function that is called once with the topology (`feedbus.topology.Topology`), before "
        "any process starts, for example to run migrations."
    )
    keep_handled = Duration(
        "How long feedbus keeps the ids of messages of queues with `once = true`, to recognise a "
        "message that is delivered again. It must be longer than all retry delays together, and "
        "longer than any dead letter waits until it is requeued.",
        attribute="keep_handled_seconds",
    )
