"""The options of [processes], [operations], [logging] and [middleware] in topology.toml."""

from __future__ import annotations

from feedbus import topology
from feedbus.config.option_types import Choice, Dotted, Duration, Flag, Size, Text, Whole
from feedbus.config.table_types import Array, Tables, TableSchema
from feedbus.config.value_types import Command, EnvironmentName, Setting
from feedbus.logs import LOG_FORMATS

# The options that consumers and other processes have in common.
USER = Text(
    "The user that the process runs as.", default="the user who starts it", example="www-data"
)
START_RETRIES = Whole(
    "After this many failures in a row, each right after a start, the process is not started any "
    "more.",
    minimum=0,
    maximum=1000,
)
MEMORY_LIMIT = Size("A process that uses more memory is restarted.", attribute="memory_limit_bytes")


class ProcessTable(TableSchema):
    """The schema of the tables [processes.NAME] of topology.toml: each attribute is an option."""

    builds = topology.Process

    command = Command(
        "The command that is started, in this topology's folder. The process counts as ready "
        "when it has run for 10 seconds.",
        required=True,
    )
    processes = Whole("How many such processes run.", maximum=1000)
    user = USER
    start_retries = START_RETRIES
    stop_timeout = Duration(
        "How long the process may take to end before it is killed.",
        attribute="stop_timeout_seconds",
        default='"5s"',
    )
    memory_limit = MEMORY_LIMIT
    environment = Tables(
        Setting("The value of the variable."),
        "Environment variables, in addition to the inherited ones.",
        of="texts",
        keys=EnvironmentName(""),
        default="{}",
    )


class MiddlewareTable(TableSchema):
    """The schema of the table [middleware] of topology.toml: each attribute is an option."""

    use = Array(
        Dotted("The class of a middleware.", example="app:Timing"),
        "The [middleware](handlers.md#middleware) around each call of a handler, the outermost "
        "first.",
        of="dotted names",
        default="[]",
    )


class OperationsTable(TableSchema):
    """The schema of the table [operations] of topology.toml: each attribute is an option."""

    builds = topology.Operations

    enabled = Flag(
        "Whether each host runs the process that serves `/metrics`, `/healthz`, `/readyz` and the "
        "operations page, and that publishes messages that are left in the outbox.",
        default="true",
    )
    host = Text(
        "The address on which the operations process listens (the variable "
        "`FEEDBUS_OPERATIONS_HOST` sets it for one host). "
        "An address that other machines can reach needs `FEEDBUS_API_TOKEN`; requests then "
        "need this token."
    )
    port = Whole(
        "The port on which the operations process listens (the variable `FEEDBUS_OPERATIONS_PORT` "
        "sets it for one host); 0 is any free port. "
        "If a port is set here and is in use, that is an error; the consumers run anyway.",
        minimum=0,
        maximum=65_535,
        default=f"{topology.OPERATIONS_PORT}, or a free one when it is taken",
        example=topology.OPERATIONS_PORT,
    )


class LoggingTable(TableSchema):
    """The schema of the table [logging] of topology.toml: each attribute is an option."""

    builds = topology.Logging

    format = Choice(
        "The form of [log lines](logs.md) of every process that feedbus runs: `text` is"
        ' `TIME LEVEL event=… consumer=… key=value message="…"`, `json` one object on each line.'
        " The value `${FEEDBUS_LOG_FORMAT:-text}` takes the form from the environment.",
        *LOG_FORMATS,
    )
