"""What topology.toml may say: every table and option, its kind and its meaning, once."""

from __future__ import annotations

from feedbus import topology
from feedbus.config.fields import Choice, Dotted, Duration, Flag, Name, Size, Text, Whole
from feedbus.config.schedules import CronLine, HeaderTable, JsonTable, TimeZone
from feedbus.config.tables import Array, Table, Tables, TableSchema
from feedbus.config.values import (
    Adapter,
    Argument,
    ArgumentName,
    BrokerName,
    Command,
    ContentType,
    EnvironmentName,
    ExceptionName,
    OrderBy,
    RoutingKey,
    Setting,
    ShardNumber,
    Url,
)
from feedbus.logs import LOG_FORMATS
from feedbus.urls import (
    BROKER_SCHEMES,
    MANAGEMENT_SCHEMES,
    STORE_SCHEMES,
    parse_broker_url,
    parse_management_url,
    parse_store_url,
)

MOST_BUCKETS = 10_000
MOST_PREFETCH = 65_535
MOST_CONCURRENCY = 10_000
BROKER_URL = "sqlite:///var/broker.db"
CONSUMER_TIMEOUT_SECONDS = 1800.0  # RabbitMQ's own default
VAR = "var"
EXCHANGE_TYPES = ("direct", "topic", "fanout", "x-consistent-hash")


class BrokerTable(TableSchema):
    """[broker]."""

    url = Url(
        "Where the broker is. `sqlite:///FILE` is the embedded one, its file relative to this "
        "topology's folder; `amqp://` is RabbitMQ, `amqps://` the same over TLS. The nodes of a "
        "cluster are separated by `;`; they are tried in this order. `?heartbeat=SECONDS` is for "
        "consumers, 20 without it; the `ssl_` options are described in "
        "[security](../security.md#tls).",
        parse_broker_url,
        *BROKER_SCHEMES,
        example="amqp://user:${PASSWORD}@rabbit.example//",
        default=f'"{BROKER_URL}"',
    )
    management = Url(
        "Where RabbitMQ's management API answers; `feedbus plan` and `apply` read it. Without a "
        "user in it they log in as `url` does. It takes the same `ssl_` options as `url`. Beside "
        "`amqps://` it has to be https, or on this machine.",
        parse_management_url,
        *MANAGEMENT_SCHEMES,
        example="https://rabbit.example:15671",
        default="on the host of `url`: port 15672, or 15671 with https for `amqps://`",
    )
    consumer_timeout = Duration(
        "How long RabbitMQ waits for an acknowledgement (`consumer_timeout` in its own "
        "configuration); a consumer gives back messages that it cannot handle within that time.",
        attribute="consumer_timeout_seconds",
        default='"30m"',
    )


class StoreTable(TableSchema):
    """[store]."""

    builds = topology.StoreOptions

    adapter = Adapter(
        "What the store is used with: peewee; SQLAlchemy, with the engine and the models of the "
        "project; or a [store of your own](../how-to/database.md#a-store-of-your-own), by the "
        "dotted name of a function that takes the topology and returns it.",
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
        "The project's SQLAlchemy engine; only with that adapter.", default="needed by sqlalchemy"
    )
    prepare = Dotted(
        "Called once, with the topology (`feedbus.topology.Topology`), before anything is started; "
        "migrations go here."
    )
    keep_handled = Duration(
        "How long the messages of queues with `once = true` are remembered, to recognise one that "
        "comes again. It has to be longer than any retry, and than any dead letter is kept before "
        "it is requeued.",
        attribute="keep_handled_seconds",
    )


class ExchangeTable(TableSchema):
    """[exchanges] NAME."""

    builds = topology.Exchange

    type = Choice(
        "How messages find queues: by equal routing key, by pattern, to every queue, or to one "
        "shard of a ring by the hash of the routing key.",
        *EXCHANGE_TYPES,
        required=True,
    )
    pack = Whole(
        "The most records that one message may carry; 0 sends each record alone.",
        least=0,
        most=1_000_000,
    )
    arguments = Tables(
        Argument("The value of the argument."),
        "The broker's own arguments.",
        of="arguments",
        keys=ArgumentName(""),
        example={"alternate-exchange": "shop.other"},
    )
    content_type = ContentType(
        "The content type of what feedbus publishes to it: text, `application/octet-stream`, or "
        "one that `[codecs]` has. Not beside `pack`.",
        default="application/json",
    )
    external = Flag(
        "Whether [another system](../how-to/foreign-systems.md) declares it: feedbus publishes to "
        "it and binds its own queues to it, and never declares, changes or deletes it.",
        default="false",
    )
    name = BrokerName(
        "Its whole name on the broker, where it is external.",
        attribute="external_name",
        default="needed by `external`",
    )


class BatchTable(TableSchema):
    """batch of a queue."""

    builds = topology.Batch

    size = Whole("How many records a handler takes at once.", most=MOST_PREFETCH)
    wait = Duration(
        "How long after a batch the next begins at the earliest, unless it is full.",
        zero=True,
        attribute="wait_seconds",
    )


class RetryTable(TableSchema):
    """retry of a queue."""

    builds = topology.RetryPolicy

    delays = Array(
        Duration("How long the message waits for this attempt."),
        "The waits between attempts.",
        example=["1s", "10s", "1m"],
        of="durations",
        empty=False,
        required=True,
        attribute="delays_seconds",
    )
    then = Choice(
        "What becomes of a message after the last attempt.",
        *("dead-letter", "drop"),
        default="needed, unless `repeat` is true",
    )
    repeat = Flag("Whether the last delay repeats without end.", default="false")
    retry_on = Array(
        ExceptionName("The dotted name of an exception class."),
        "The only exceptions of the handler that are worth another attempt, with their subclasses; "
        "any other makes a dead letter at once.",
        of="exceptions",
        empty=False,
        default="every exception",
        example=["httpx.TransportError"],
    )
    reject_on = Array(
        ExceptionName("The dotted name of an exception class."),
        "Exceptions that make a dead letter at once. Where a class of an exception is named in "
        "each of the two, the nearest class counts.",
        of="exceptions",
        empty=False,
        default="none",
        example=["ValueError"],
    )


class DeadLettersTable(TableSchema):
    """dead_letters of a queue."""

    builds = topology.DeadLetters

    max_age = Duration(
        "Dead letters older than this are dropped.",
        never=True,
        attribute="max_age_seconds",
        default='"never"',
    )
    max_length = Whole(
        "The oldest dead letters beyond so many are dropped.", unlimited=True, default='"unlimited"'
    )


class QueueTable(TableSchema):
    """[queues.NAME] and [defaults.queue]."""

    builds = topology.Queue

    exchange = Name(
        "The exchange that the queue is bound to.",
        default="needed, unless `external`",
        example="orders",
    )
    handler = Dotted(
        "The handler of its messages, imported from this topology's folder.",
        default="needed, or `handlers`, or `handlers_by_type`",
    )
    handlers = Tables(
        Dotted("The handler of the messages with such a routing key."),
        "In place of `handler`, several handlers by the routing keys that each takes; `*` is one "
        "word and `#` any number of words. The first pattern in the order of the file that matches "
        "takes a message. A message that no pattern matches becomes a dead letter.",
        of="dotted names",
        keys=RoutingKey(""),
        empty=False,
        default="none",
        example={"mail.#": "app:mail"},
    )
    handlers_by_type = Tables(
        Dotted("The handler of the messages of this type."),
        "In place of `handler`, several by the AMQP property `type` of the messages that each "
        "takes.",
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
        "Makes a queue, a consumer and a process `NAME_0` … of each shard. Only on an "
        "x-consistent-hash exchange.",
        most=MOST_BUCKETS,
        default="one queue, called NAME",
        example=4,
    )
    weight = Whole(
        "Every shard's share of the ring, in buckets; a ring has at most 10,000 of them.",
        most=MOST_BUCKETS,
        default="1",
    )
    weights = Tables(
        Whole("The weight of the shard with this number.", most=MOST_BUCKETS),
        "Single shards' weights by number, `{ 3 = 2 }`; the others keep `weight`.",
        of="positive integers",
        keys=ShardNumber(""),
        default="{}",
    )
    batch = Table(
        BatchTable, "How many records a handler takes at once.", default='{ size = 1, wait = "0s" }'
    )
    retry = Table(
        RetryTable,
        "The retry policy: delays, and what follows the last attempt.",
        default='{ delays = ["1s", "10s", "1m", "10m"], then = "dead-letter" }',
    )
    dead_letters = Table(
        DeadLettersTable,
        "Limits beyond which its consumers drop dead letters, once a minute. They are counted.",
        default='{ max_age = "never", max_length = "unlimited" }',
    )
    dead_handler = Dotted(
        "Called with each [dead letter](../how-to/retries.md#dead-letter-handlers) of its "
        "consumers, before it is stored.",
        default="none",
    )
    prefetch = Whole(
        "How many messages a consumer holds that are not acknowledged; at least `concurrency`, and "
        "for a batch at least its size.",
        most=MOST_PREFETCH,
        default="`10`, or twice `concurrency` where that is more",
        example=50,
    )
    concurrency = Whole(
        "How many records each process handles "
        "[at once](../how-to/async.md#several-records-at-once): async handlers as tasks, others in "
        "so many threads. Not with `@handler(batch=True)`.",
        most=MOST_CONCURRENCY,
    )
    order_by = OrderBy(
        "What stays in [order](../concepts/order.md) where several records are handled at once: "
        "`true` for records of one routing key, a field's name for records with one value of it. "
        "On a queue without shards both make `single_active_consumer` true.",
        default="`true` for shards, `false` for others",
    )
    store = Flag(
        "Whether the handler runs in a transaction of the `[store]`, where there is one. A queue "
        "with `store = false` needs no database: its handlers may be async, get no session and "
        "wait for no outage of the store."
    )
    once = Flag(
        "Whether a message that comes twice has its effects once: an inbox row commits with them. "
        "It needs a `[store]`."
    )
    stream = Flag(
        "Whether the messages of the handler are sent while it runs, some thousands at once, "
        "without a transaction of the store. Use it for a handler that publishes very much and "
        "stores nothing that must not be stored twice."
    )
    type = Choice("The kind of queue on RabbitMQ.", "classic", "quorum")
    single_active_consumer = Flag(
        "Whether only one process reads the queue at a time, while the others wait.",
        default="true for shards and beside `order_by`, false for others",
    )
    delivery_limit = Whole(
        "How many times a message may end its handler's process (by a crash, its memory or "
        "`handler_timeout`) before it is dead-lettered. Deliveries that no handler began are not "
        "counted: quorum queues are declared without a limit of the broker's own.",
    )
    message_ttl = Duration(
        "How long a message may wait in the queue.",
        never=True,
        attribute="message_ttl_seconds",
        default='"never"',
    )
    max_length = Whole(
        "How many messages may wait in the queue.", unlimited=True, default='"unlimited"'
    )
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
        never=True, attribute="idle_timeout_seconds", default='"never"',
    )  # fmt: skip
    max_runtime = Duration(
        "A consumer ends after this time and is restarted.",
        never=True, attribute="max_runtime_seconds", default='"never"',
    )  # fmt: skip
    max_messages = Whole(
        "A consumer ends after this number of messages and is restarted.",
        unlimited=True,
        default='"unlimited"',
    )
    handler_timeout = Duration(
        "A handler that takes longer is ended with its process. It must be less than "
        "`consumer_timeout` in `[broker]`.",
        attribute="handler_timeout_seconds",
    )
    memory_limit = Size(
        "A process that takes more memory is restarted.",
        attribute="memory_limit_bytes",
        default='"unlimited"',
    )
    processes = Whole("How many processes read each queue.", most=1000)
    user = Text(
        "The user that the process runs as.", default="the user who starts it", example="www-data"
    )
    start_retries = Whole(
        "How many times a process may end right after its start before it is given up.",
        least=0,
        most=1000,
    )
    stop_timeout = Duration(
        "How long a process has to finish its handler and end before it is killed.",
        attribute="stop_timeout_seconds",
        default="`handler_timeout` and 5 s",
    )
    external = Flag(
        "Whether [another system](../how-to/foreign-systems.md) declares it: it is consumed as it "
        "is, and never declared, bound, changed, purged or deleted.",
        default="false",
    )
    name = BrokerName(
        "Its whole name on the broker, where it is external.",
        attribute="external_name",
        default="needed by `external`",
    )


class ProcessTable(TableSchema):
    """[processes.NAME]."""

    builds = topology.Process

    command = Command("The command that is started, in this topology's folder.", required=True)
    processes = Whole("How many such processes run.", most=1000)
    user = Text(
        "The user that the process runs as.", default="the user who starts it", example="www-data"
    )
    start_retries = Whole(
        "How many times the process may end right after its start before it is given up.",
        least=0,
        most=1000,
    )
    stop_timeout = Duration(
        "How long the process may take to end before it is killed.",
        attribute="stop_timeout_seconds",
        default='"5s"',
    )
    memory_limit = Size(
        "A process that takes more memory is restarted.",
        attribute="memory_limit_bytes",
        default='"unlimited"',
    )
    environment = Tables(
        Setting("The value of the variable."),
        "Environment variables, beside those it inherits.",
        of="texts",
        keys=EnvironmentName(""),
        default="{}",
    )


class MiddlewareTable(TableSchema):
    """[middleware]."""

    use = Array(
        Dotted("The class of a middleware.", example="app:Timing"),
        "The [middleware](handlers.md#middleware) around each call of a handler, the outermost "
        "first.",
        of="dotted names",
        default="[]",
    )


class OperationsTable(TableSchema):
    """[operations]."""

    builds = topology.Operations

    enabled = Flag(
        "Whether each host runs the process that serves `/metrics`, `/healthz`, `/readyz` and the "
        "operations page, and that publishes what is left in the outbox.",
        default="true",
    )
    host = Text(
        "The address on which it listens (`FEEDBUS_OPERATIONS_HOST` on one host). One that other "
        "machines reach needs `FEEDBUS_API_TOKEN`, which requests then have to show."
    )
    port = Whole(
        "The port on which it listens (`FEEDBUS_OPERATIONS_PORT` on one host); 0 is any free port. "
        "If a port is set here and is in use, that is an error; the consumers run anyway.",
        least=0,
        most=65_535,
        default=f"{topology.OPERATIONS_PORT}, or a free one when it is taken",
        example=topology.OPERATIONS_PORT,
    )


class LoggingTable(TableSchema):
    """[logging]."""

    builds = topology.Logging

    format = Choice(
        "The form of [log lines](logs.md) of every process that feedbus runs: `text` is"
        ' `TIME LEVEL event=… consumer=… key=value message="…"`, `json` one object on each line.'
        " `${FEEDBUS_LOG_FORMAT:-text}` takes it from the environment.",
        *LOG_FORMATS,
    )


class ScheduleTable(TableSchema):
    """[schedules.NAME]."""

    builds = topology.Schedule

    cron = CronLine(
        "The moments of the schedule: minute, hour, day of month, month, day of week. A sixth "
        "field in front is the second.",
        required=True,
    )
    timezone = TimeZone("The time zone of the line, by its name in the IANA database.")
    exchange = Name(
        "The exchange that the message is published to.", required=True, example="orders"
    )
    key = RoutingKey("The routing key of the message.")
    payload = JsonTable("The payload of the message.", default="{}")
    headers = HeaderTable(
        "The headers of the message, as publish() takes them.",
        default="{}",
        example={"source": "nightly"},
    )
    catch_up = Duration(
        "How late a moment is fired that was missed, at most: of several the latest. At least 10 "
        "seconds.",
        attribute="catch_up_seconds",
    )


class DefaultsTable(TableSchema):
    """[defaults]."""

    what = "table"

    queue = Table(QueueTable, "Any queue option; a queue overrides it as a whole.")


class TopologyTable(TableSchema):
    """The whole file."""

    what = "key"

    name = Name("The prefix of every name on the broker.", required=True, example="shop")
    var = Text("The folder of sockets, locks, logs and metric files.", default=f'"{VAR}"')
    broker = Table(BrokerTable, "Where the broker is.")
    store = Table(
        StoreTable,
        "The database that the handlers' effects commit to; without this table there is none.",
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
        "Supervised processes beside the consumers, by name.",
        of="tables",
    )
    codecs = Tables(
        Dotted("The codec of this content type.", example="app:Protobuf"),
        "The project's [codecs](handlers.md#codecs) by content type: what reads and writes bodies "
        "that are not JSON.",
        of="dotted names",
        keys=ContentType(""),
        example={"application/x-protobuf": "app:Protobuf"},
    )
    middleware = Table(MiddlewareTable, "What runs around each call of a handler.")
    schedules = Tables(
        Table(ScheduleTable, "A schedule; the key is its name."),
        "[Messages](../how-to/scheduling.md) that are published at the moments of a cron line, by "
        "name.",
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


DECLARATION = TopologyTable()
