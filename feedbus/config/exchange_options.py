"""The options of an exchange in topology.toml, with the type, default and description of each."""

from __future__ import annotations

from feedbus import topology
from feedbus.config.broker_value_types import Argument, ArgumentName, BrokerName, ContentType
from feedbus.config.option_types import Choice, Flag, Whole
from feedbus.config.table_types import Tables, TableSchema

EXCHANGE_TYPES = ("direct", "topic", "fanout", "x-consistent-hash")


class ExchangeTable(TableSchema):
    """The schema of the tables [exchanges.NAME] of topology.toml: each attribute is an option."""

    builds = topology.Exchange

    type = Choice(
        "How messages find queues: by equal routing key, by pattern, to every queue, or to one "
        "shard of a ring by the hash of the routing key.",
        *EXCHANGE_TYPES,
        required=True,
    )
    pack = Whole(
        "The largest number of records in one message. With 0, each record has its own message.",
        minimum=0,
        maximum=1_000_000,
    )
    arguments = Tables(
        Argument("The value of the argument."),
        "The broker's own arguments.",
        of="arguments",
        keys=ArgumentName(""),
        example={"alternate-exchange": "shop.other"},
    )
    content_type = ContentType(
        "The content type of the messages that feedbus publishes to this exchange: text, "
        "`application/octet-stream`, or one of `[codecs]`. Not together with `pack`.",
        default="application/json",
    )
    external = Flag(
        "Whether [another system](../how-to/foreign-systems.md) declares the exchange. feedbus "
        "then publishes to the exchange and binds its own queues to it, but never declares, "
        "changes or deletes the exchange.",
        default="false",
    )
    name = BrokerName(
        "The whole name of an external exchange on the broker.",
        attribute="external_name",
        default="needed by `external`",
    )
