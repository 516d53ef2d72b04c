"""The options of a queue in topology.toml, with the type, default and description of each."""

from __future__ import annotations

from feedbus import topology
from feedbus.config.broker_value_types import Argument, ArgumentName, BrokerName, RoutingKey
from feedbus.config.failure_options import DeadLettersTable, RetryTable
from feedbus.config.option_types import Choice, Dotted, Duration, Flag, Name, Whole
from feedbus.config.process_options import MEMORY_LIMIT, START_RETRIES, USER
from feedbus.config.table_types import Array, Table, Tables, TableSchema
from feedbus.config.value_types import OrderBy, ShardNumber

MOST_PREFETCH = 65_535  # the maximum of AMQP
MOST_CONCURRENCY = 10_000
# A consumer does not acknowledge waiting records. So they must fit into the prefetch of a waiting
# queue, which is MOST_PREFETCH.
MOST_WAITING = 50_000


class BatchTable(TableSchema):
    """The schema of the table `batch` of a queue in topology.toml: each attribute is an option."""

    builds = topology.Batch

    size = Whole("How many records a handler gets in one call.", maximum=MOST_PREFETCH)
    wait = Duration(
        "The shortest time between the beginnings of two batches; a full batch begins earlier.",
        zero=True,
        attribute="wait_seconds",
    )


class QueueTable(TableSchema):
    """The schema of [queues.NAME] and [defaults.queue]; it has one attribute for each option."""

    builds = topology.Queue

    exchange = Name(
        "The exchange that the queue is bound to.",
        default="needed, unless `external`",
        example="orders",
    )
    handler = Dotted(
        "The handler of the queue's messages, imported from this topology's folder.",
        default="needed, or `handlers`, or `handlers_by_type`",
    )
    handlers = Tables(
        Dotted("The handler of the messages with such a routing key."),
        "In place of `handler`, several handlers by patterns of routing keys; `*` is one word and "
        "`#` any number of words. The first pattern in the file that matches the routing key of a "
        "message selects the handler. A message that no pattern matches becomes a dead letter.",
        of="dotted names",
        keys=RoutingKey(""),
        empty=False,
        default="none",
        example={"mail.#": "app:mail"},
    )
    handlers_by_type = Tables(
        Dotted("The handler of the messages of this type."),
        "In place of `handler`, several handlers by the AMQP property `type` of the messages that "
        "each takes.",
        of="dotted names",
        keys=RoutingKey(""),
        empty=False,
        default="none",
        example={"order.placed": "app:placed"},
    )
    routing_keys = Array(
        RoutingKey("A binding key.", example="mail.#"),
        "The binding keys. Needed on a direct or topic exchange, refused on any other. "
        "On a topic exchange `*` is one word and `#` any number of words.",
        of="texts",
    )
    shards = Whole(
        "The number of shards. Each shard has its own queue, consumer and process: `NAME_0`, "
        "`NAME_1` and so on. Only on an x-consistent-hash exchange.",
        maximum=topology.MAX_BUCKETS,
        default="one queue, called NAME",
        example=4,
    )
    weight = Whole(
        "The share of each shard in the ring, in buckets; a ring has at most 10,000 buckets.",
        maximum=topology.MAX_BUCKETS,
        default="1",
    )
    weights = Tables(
        Whole("The weight of the shard with this number.", maximum=topology.MAX_BUCKETS),
        "The weights of single shards by number, `{ 3 = 2 }`; other shards keep `weight`.",
        of="positive integers",
        keys=ShardNumber(""),
        default="{}",
    )
    batch = Table(
        BatchTable,
        "How many records a handler gets in one call.",
        default='{ size = 1, wait = "0s" }',
    )
    retry = Table(
        RetryTable,
        "The retry policy: delays, and what follows the last attempt.",
        default='{ delays = ["1s", "10s", "1m", "10m"], then = "dead-letter" }',
    )
    dead_letters = Table(
        DeadLettersTable,
        "Limits for the dead letters of the queue. Once a minute, its consumers drop and "
        "count the dead letters that exceed a limit.",
        default='{ max_age = "never", max_length = "unlimited" }',
    )
    dead_handler = Dotted(
        "The function that is called with each [dead "
        "letter](../how-to/retries.md#dead-handlers) of the queue, before it is stored.",
        default="none",
    )
    prefetch = Whole(
        "How many unacknowledged messages the broker delivers to a consumer: at least "
        "`concurrency`, and at least the size of a batch.",
        maximum=MOST_PREFETCH,
        default="`10`, or twice `concurrency` if that is more",
        example=50,
    )
    concurrency = Whole(
        "How many records each process handles at the [same time]"
        "(../how-to/async.md#several-records-at-the-same-time): async handlers as tasks, others in "
        "so many threads. Not with `@handler(batch=True)`.",
        maximum=MOST_CONCURRENCY,
    )
    order_by = OrderBy(
        "Which records stay in [order](../concepts/order.md) when a record fails, or when "
        "several are handled at the same time: with `true`, records with the same routing "
        "key; with the name of a field, records with the same value of this field. On a queue "
        "without shards, both also set `single_active_consumer` to true.",
        default="`true` for shards, `false` for others",
    )
    store = Flag(
        "Whether the handler runs in a transaction of the `[store]`, if there is one. A queue "
        "with `store = false` needs no database: "
        "its handlers may be async, get no session, and continue during an outage of the "
        "store."
    )
    waiting_limit = Whole(
        "How many records of a shard or queue with `order_by` may "
        "[wait](../concepts/order.md#when-a-record-fails) for a failed record of their key. "
        "When this limit is reached, the consumer handles only waiting records. The same number of "
        "records may wait for [old queues](../concepts/generations.md) after a change of shards.",
        maximum=MOST_WAITING,
        default="10000",
    )
    block_on_dead = Flag(
        "Whether a dead letter blocks its key until `feedbus dead requeue` sends it back or "
        "`feedbus dead drop` deletes it. It needs `order_by`."
    )
    once = Flag(
        "Whether a message that is delivered twice has its effects once: its id is stored in "
        "the same transaction as the effects. It needs a `[store]`."
    )
    stream = Flag(
        "Whether the messages of the handler are sent while it runs, some thousands together, "
        "without a transaction of the store. "
        "Use it for a handler that publishes very many messages, and whose stored effects "
        "may be repeated. With `order_by`, small messages of other keys are handled between "
        "these sends. With `concurrency` above 1, the messages are sent when the handler has "
        "returned."
    )
    type = Choice("The kind of queue on RabbitMQ.", "classic", "quorum")
    single_active_consumer = Flag(
        "Whether only one process reads the queue at a time, while the others wait.",
        default="true for shards and with `order_by`, false for others",
    )
    delivery_limit = Whole(
        "How many times the process or its connection to the broker may end while it handles a "
        "message (by a crash, too much memory or `handler_timeout`, for example) before the "
        "message becomes a dead letter. Deliveries that did not reach a handler are not counted: "
        "feedbus declares quorum queues without the broker's delivery limit.",
    )
    message_ttl = Duration(
        "How long a message may wait in the queue.",
        never=True,
        attribute="message_ttl_seconds",
    )
    max_length = Whole("How many messages may wait in the queue.", unlimited=True)
    overflow = Choice(
        "What happens beyond `max_length`: the oldest are dropped, or new ones are refused.",
        *("drop-head", "reject-publish"),
        default="drop-head, as the broker does",
    )
    arguments = Tables(
        Argument("The value of the argument."),
        "The broker's own arguments.",
        of="arguments",
        keys=ArgumentName(""),
        default="{}",
        example={"x-max-priority": 10},
    )
    idle_timeout = Duration(
        "A consumer that gets no message for this time ends and is restarted.",
        never=True,
        attribute="idle_timeout_seconds",
    )
    max_runtime = Duration(
        "A consumer ends after this time and is restarted.",
        never=True,
        attribute="max_runtime_seconds",
    )
    max_messages = Whole(
        "A consumer ends after this number of messages and is restarted.", unlimited=True
    )
    handler_timeout = Duration(
        "A handler that takes longer is ended with its process. The timeout must be less than "
        "`consumer_timeout` in `[broker]`, which is 30 minutes by default.",
        attribute="handler_timeout_seconds",
    )
    memory_limit = MEMORY_LIMIT
    processes = Whole("How many processes read each queue.", maximum=1000)
    user = USER
    start_retries = START_RETRIES
    stop_timeout = Duration(
        "How long a process has to finish its handler and end before it is killed.",
        attribute="stop_timeout_seconds",
        default="`handler_timeout` plus 5 s",
    )
    external = Flag(
        "Whether [another system](../how-to/foreign-systems.md) declares the queue. feedbus then "
        "only consumes from it, and never declares, binds, changes, purges or deletes it.",
        default="false",
    )
    name = BrokerName(
        "The whole name of an external queue on the broker.",
        attribute="external_name",
        default="needed by `external`",
    )
