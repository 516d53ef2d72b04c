"""Reading topology.toml: what is right loads, and what is wrong is reported at its place."""

from __future__ import annotations

import itertools
import os
import sys
import textwrap
from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import Problem, TopologyError
from feedbus.topology import Batch, Exchange, Operations, Process, Queue, RetryPolicy

PROJECT = Path(__file__).parent.parent
MARK = "▸"  # stands before what a problem must point at, and is taken out before reading

START = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
mail = { type = "topic" }
news = { type = "fanout" }
feed = { type = "x-consistent-hash" }
"""
ORDERS = """\
[queues.orders]
exchange = "orders"
routing_keys = ["new"]
handler = "handlers.orders:take"
"""
FEED = """\
[queues.feed]
exchange = "feed"
handler = "handlers.feed:take"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "topology.toml"
    path.write_bytes(text.encode())
    return path


def problems_of(path: Path, **options) -> tuple[Problem, ...]:
    with pytest.raises(TopologyError) as caught:
        config.load(path, **{"environ": {}, **options})
    return caught.value.problems


def places(marked: str) -> list[str]:
    """Return LINE:COLUMN of every mark, as an editor counts them."""
    found, line, column = [], 1, 1
    for sign in marked:
        if sign == MARK:
            found.append(f"{line}:{column}")
        elif sign == "\n":
            line, column = line + 1, 1
        else:
            column += 1
    return found


def assert_reported(folder: Path, marked: str, *reported: str, **options) -> None:
    """Assert that exactly these problems are reported, each at its mark."""
    path = write(folder, marked.replace(MARK, ""))
    expected = [f"{path}:{at}: {text}" for at, text in zip(places(marked), reported, strict=True)]
    assert [str(problem) for problem in problems_of(path, **options)] == expected


WRONG_FILES = {
    "an unknown key at the top": (
        "▸names = 1\n" + START + ORDERS,
        "names: unknown key; did you mean 'name'?",
    ),
    "an unknown table": (
        START + ORDERS + "[▸brokr]\nurl = 1\n",
        "[brokr] unknown key; did you mean 'broker'?",
    ),
    "an unknown option of the broker": (
        START + ORDERS + '[broker]\n▸uri = "sqlite:///b.db"\n',
        "[broker] uri: unknown option; did you mean 'url'?",
    ),
    "an unknown table of defaults": (
        START + ORDERS + "[defaults]\n▸exchange = {}\n",
        "[defaults] exchange: unknown table; expected one of queue",
    ),
    "a name that is missing": (
        "▸" + START.replace('name = "shop"\n', "") + ORDERS,
        (
            "name: expected a name of letters, digits, '_', '-' and '.', "
            "that does not begin with '-' or '.', got nothing"
        ),
    ),
    "a name that is a number": (
        START.replace('"shop"', "▸7") + ORDERS,
        (
            "name: expected a name of letters, digits, '_', '-' and '.', "
            "that does not begin with '-' or '.', got 7"
        ),
    ),
    "a name that is the broker's own": (
        START.replace('"shop"', '▸"amq.x"') + ORDERS,
        "name: expected another name: 'amq' is the broker's own, got 'amq.x'",
    ),
    "a table that is a text": (
        'broker = ▸"amqp://"\n' + START + ORDERS,
        "broker: expected a table, got a text",
    ),
    "a queue that is a number": (
        START + "[queues]\norders = ▸7\n",
        "[queues] orders: expected a table, got a number",
    ),
    "queues that are an array of tables": (
        START + "▸[[queues]]\n" + 'exchange = "orders"\n',
        "queues: expected a table of tables, at least one, got an array",
    ),
    "a table of queues without any": (
        START + "▸[queues]\n",
        "[queues] expected a table of tables, at least one, got an empty table",
    ),
    "exchanges that are missing": (
        '▸name = "shop"\n' + ORDERS,
        "exchanges: expected a table of tables, got nothing",
    ),
    "an unknown exchange type": (
        START.replace('"topic"', '▸"topics"') + ORDERS,
        (
            "[exchanges] mail.type: expected 'direct', 'topic', 'fanout' or 'x-consistent-hash', "
            "got 'topics'; did you mean 'topic'?"
        ),
    ),
    "an exchange without a type": (
        START.replace('{ type = "topic" }', "▸{ pack = 5 }") + ORDERS,
        (
            "[exchanges] mail.type: expected 'direct', 'topic', 'fanout' or 'x-consistent-hash', "
            "got nothing"
        ),
    ),
    "a pack below nothing": (
        START.replace('"topic" }', '"topic", pack = ▸-1 }') + ORDERS,
        "[exchanges] mail.pack: expected an integer of 0 or more, got -1",
    ),
    "an argument of a ring that feedbus sets": (
        START.replace('hash" }', 'hash", arguments = { ▸hash-header = "id" } }') + ORDERS,
        (
            "[exchanges] feed.arguments.hash-header: is set by feedbus itself: "
            "a ring places by routing key and loses nothing"
        ),
    ),
    "a broker of an unknown scheme": (
        START + ORDERS + '[broker]\nurl = ▸"ampq://localhost"\n',
        (
            "[broker] url: expected a URL that begins with sqlite://, amqp://, amqps:// or "
            "pyamqp://, got 'ampq://…'; did you mean 'amqp://'?"
        ),
    ),
    "a store of an unknown scheme": (
        START + ORDERS + '[store]\nurl = ▸"mysql://localhost/x"\n',
        (
            "[store] url: expected a URL that begins with sqlite://, postgresql:// or postgres://, "
            "got 'mysql://…'"
        ),
    ),
    "an sqlite URL that lacks a slash": (
        START + ORDERS + '[store]\nurl = ▸"sqlite://var/x.db"\n',
        (
            "[store] url: expected a file: sqlite:///relative/to/this.db or "
            "sqlite:////absolute.db, got 'sqlite://…'"
        ),
    ),
    "an sqlite URL in memory": (
        START + ORDERS + '[broker]\nurl = ▸"sqlite:///:memory:"\n',
        (
            "[broker] url: expected a file: sqlite:///relative/to/this.db or "
            "sqlite:////absolute.db, got 'sqlite://…'"
        ),
    ),
    "a URL whose port is none, its password kept secret": (
        START + ORDERS + '[broker]\nurl = ▸"amqp://me:secret@host:56x72/"\n',
        "[broker] url: expected a port from 1 to 65535 after the host, got 'amqp://…'",
    ),
    "a password with a slash": (
        START + ORDERS + '[broker]\nurl = ▸"amqp://guest:5/abcSecret@HOST//"\n',
        (
            "[broker] url: expected '/', '?', '#' and '@' inside a user, a password or a name as "
            "%2F, %3F, %23 and %40, got 'amqp://…'"
        ),
    ),
    "an option of TLS that is misspelt": (
        START + ORDERS + '[broker]\nurl = ▸"amqps://h//?ssl_cacerts=/x"\n',
        (
            "[broker] url: expected heartbeat, ssl_ca_certs, ssl_certfile, ssl_keyfile, "
            "ssl_server_name or ssl_verify after '?', got 'ssl_cacerts'; "
            "did you mean 'ssl_ca_certs'?"
        ),
    ),
    "a management API that would get the password of amqps in clear text": (
        START + ORDERS + '[broker]\nurl = "amqps://h//"\nmanagement = ▸"http://h:15672"\n',
        (
            "[broker] management: expected https://, as url is amqps://: the password would "
            "travel unencrypted, got 'http://…'"
        ),
    ),
    "a store's option that libpq does not know": (
        START + ORDERS + '[store]\nurl = ▸"postgresql://u@h/db?sslmod=require"\n',
        (
            "[store] url: expected postgresql://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE, "
            "as PostgreSQL's libpq takes it, got 'postgresql://…'; did you mean 'sslmode'?"
        ),
    ),
    "an sqlite URL with a question": (
        START + ORDERS + '[store]\nurl = ▸"sqlite:///x.db?mode=ro"\n',
        "[store] url: expected a file without '?' and '#', got 'sqlite://…'",
    ),
    "a URL with a blank": (
        START + ORDERS + '[broker]\nurl = ▸"amqp://my host/"\n',
        "[broker] url: expected a URL without blanks and control characters, got 'amqp://…'",
    ),
    "a queue type that is unknown, and nothing more that follows from it": (
        START + ORDERS + 'type = ▸"quorun"\ndelivery_limit = 3\n',
        (
            "[queues.orders] type: expected 'classic' or 'quorum', got 'quorun'; "
            "did you mean 'quorum'?"
        ),
    ),
    "a prepare without a colon": (
        START + ORDERS + '[store]\nurl = "sqlite:///s.db"\nprepare = ▸"store.migrate"\n',
        (
            "[store] prepare: expected a dotted name such as 'package.module:name', "
            "got 'store.migrate'"
        ),
    ),
    "a store that nobody says where it is": (
        START + ORDERS + "▸[store]\n",
        "[store] url: expected sqlite:///FILE or postgresql://…, got nothing",
    ),
    "a store with an unknown adapter": (
        START + ORDERS + '[store]\nadapter = ▸"sqlalchmy"\nengine = "shop.db:engine"\n',
        (
            "[store] adapter: expected 'peewee', 'sqlalchemy' or a dotted name such as "
            "'package.module:name', got 'sqlalchmy'; did you mean 'sqlalchemy'?"
        ),
    ),
    "sqlalchemy without an engine": (
        START + ORDERS + '▸[store]\nadapter = "sqlalchemy"\n',
        (
            "[store] engine: expected the dotted name of an SQLAlchemy engine, such as "
            "'shop.db:engine', beside adapter = \"sqlalchemy\", got nothing"
        ),
    ),
    "an engine without sqlalchemy": (
        START + ORDERS + '[store]\nurl = "sqlite:///s.db"\n▸engine = "shop.db:engine"\n',
        "[store] engine: has no effect with peewee: expected url instead",
    ),
    "a variable that is unset and has no default": (
        START + ORDERS + '[broker]\nurl = ▸"${BROKER}"\n',
        "[broker] url: variable BROKER is not set and has no default",
    ),
    "a variable that is not closed": (
        START + ORDERS + '[broker]\nurl = ▸"${BROKER:-sqlite:///x.db"\n',
        (
            "[broker] url: expected ${NAME} or ${NAME:-default} ($$ for a dollar), "
            "got another text after '${'"
        ),
    ),
    "a process without a command": (
        START + ORDERS + "▸[processes.web]\nprocesses = 2\n",
        (
            '[processes.web] command: expected a command such as "python -m web" or '
            "an array of its words, got nothing"
        ),
    ),
    "a command with an open quotation": (
        START + ORDERS + '[processes.web]\ncommand = ▸"python -c \'x"\n',
        (
            '[processes.web] command: expected a command such as "python -m web" or '
            "an array of its words (no closing quotation), got a text"
        ),
    ),
    "an environment that holds a number": (
        START + ORDERS + '[processes.web]\ncommand = "x"\nenvironment = { PORT = ▸80 }\n',
        "[processes.web] environment.PORT: expected a text, got a number",
    ),
    "an environment variable with a blank": (
        START + ORDERS + '[processes.web]\ncommand = "x"\nenvironment = { ▸"A B" = "1" }\n',
        (
            '[processes.web] environment."A B": expected a variable\'s name of letters, digits '
            "and '_', got 'A B'"
        ),
    ),
    "a process named like a consumer": (
        START + ORDERS + '[processes.▸orders]\ncommand = "x"\n',
        (
            "[processes.orders] expected another name: 'orders' is already the name of a "
            "consumer or process of [queues.orders]"
        ),
    ),
    "a process named like feedbus's own": (
        START + ORDERS + '[processes.▸Operations]\ncommand = "x"\n',
        (
            "[processes.Operations] expected another name: 'Operations' is feedbus's own process, "
            "see [operations]"
        ),
    ),
    "a port that is none": (
        START + ORDERS + "[operations]\nport = ▸70000\n",
        "[operations] port: expected at most 65,535, got 70000",
    ),
    "a command of the project that is no dotted name": (
        START + ORDERS + '[commands]\ndemo = ▸"web.demo"\n',
        "[commands] demo: expected a dotted name such as 'package.module:name', got 'web.demo'",
    ),
    "a name with a blank": (
        START + ORDERS.replace("orders]", '▸"my orders"]', 1),
        (
            "[queues.\"my orders\"] expected a name of letters, digits, '_', '-' and '.', "
            "that does not begin with '-' or '.', got 'my orders'"
        ),
    ),
    "a name that is longer than the broker takes": (
        START + ORDERS.replace("orders]", f"▸{'x' * 225}]", 1),
        (
            f"[queues.{'x' * 225}] expected a name of at most 224 characters, got 225: "
            "the broker takes 255 bytes, and feedbus adds to it"
        ),
    ),
    "a queue declared beside the shard of that name": (
        START + ORDERS.replace("orders]", "▸feed_3]", 1) + FEED + "shards = 4\n",
        (
            "[queues.feed_3] expected another name: 'feed_3' is already the name of a "
            "consumer or process of [queues.feed]"
        ),
    ),
    "two queues that differ only in case": (
        START + ORDERS + ORDERS.replace("orders]", "▸Orders]", 1),
        (
            "[queues.Orders] expected another name: 'Orders' (beside 'orders') is already the name "
            "of a consumer or process of [queues.orders]"
        ),
    ),
    "a queue named like what is held for an exchange": (
        START + ORDERS + ORDERS.replace("orders]", '▸"feed.held"]', 1),
        (
            "[queues.\"feed.held\"] expected another name: 'feed.held' is a name that "
            "feedbus itself uses for 'feed'"
        ),
    ),
    "a queue named like parked retries": (
        START + ORDERS + ORDERS.replace("orders]", '▸"orders.retry.1000.parked"]', 1),
        (
            '[queues."orders.retry.1000.parked"] expected another name: '
            "'orders.retry.1000.parked' is a name that feedbus itself uses for 'orders'"
        ),
    ),
    "a queue named like a ring": (
        START + ORDERS + ORDERS.replace("orders]", '▸"feed.01234abc"]', 1),
        (
            "[queues.\"feed.01234abc\"] expected another name: 'feed.01234abc' is a name that "
            "feedbus itself uses for 'feed'"
        ),
    ),
    "a queue named like the lock": (
        START + ORDERS + ORDERS.replace("orders]", "▸lock]", 1),
        (
            "[queues.lock] expected another name: 'lock' is the queue by which feedbus locks the "
            "topology"
        ),
    ),
    "a queue named like the dead letters of another": (
        START + ORDERS + ORDERS.replace("orders]", '▸"orders.dead"]', 1),
        (
            "[queues.\"orders.dead\"] expected another name: 'orders.dead' is a name that "
            "feedbus itself uses for 'orders'"
        ),
    ),
    "a queue without an exchange": (
        START + "▸[queues.orders]\n" + 'handler = "a:b"\n',
        "[queues.orders] exchange: expected the name of an exchange, got nothing",
    ),
    "a queue without a handler": (
        START + "▸" + ORDERS.replace('handler = "handlers.orders:take"\n', ""),
        (
            "[queues.orders] handler: expected a dotted name such as 'package.module:name', "
            "got nothing"
        ),
    ),
    "a queue with an unknown exchange": (
        START + ORDERS.replace('"orders"', '▸"order"'),
        "[queues.orders] exchange: no exchange named 'order'; did you mean 'orders'?",
    ),
    "an inherited option that no queue could have": (
        START + ORDERS + "[defaults.queue]\n▸shards = 3\n",
        (
            "[defaults.queue] shards: has no effect on an exchange of type direct: only "
            "x-consistent-hash has a ring"
        ),
    ),
    "an inherited retry without its end, reported once": (
        START + ORDERS + FEED + '[defaults.queue]\nretry = ▸{ delays = ["1s"] }\n',
        (
            "[defaults.queue] retry.then: expected 'dead-letter' or 'drop' after the last delay, "
            "or repeat = true, got nothing"
        ),
    ),
    "a direct queue without routing keys": (
        START + "▸" + ORDERS.replace('routing_keys = ["new"]\n', ""),
        (
            "[queues.orders] routing_keys: nothing reaches this queue: expected routing_keys, "
            "as 'orders' is direct"
        ),
    ),
    "a topic queue with no routing key in its array": (
        START + ORDERS.replace('"orders"', '"mail"', 1).replace('["new"]', "▸[]"),
        (
            "[queues.orders] routing_keys: nothing reaches this queue: expected routing_keys, "
            "as 'mail' is topic"
        ),
    ),
    "a topic pattern that is malformed": (
        START + ORDERS.replace('"orders"', '"mail"', 1).replace('"new"', '"a.*", ▸"a.b*"'),
        (
            "[queues.orders] routing_keys[1]: expected words joined by dots, '*' and '#' standing "
            "alone as words, got 'a.b*'"
        ),
    ),
    "a topic pattern with an empty word": (
        START + ORDERS.replace('"orders"', '"mail"', 1).replace('"new"', '▸"a..b"'),
        (
            "[queues.orders] routing_keys[0]: expected words joined by dots, '*' and '#' standing "
            "alone as words, got 'a..b'"
        ),
    ),
    "a routing key that is named twice": (
        START + ORDERS.replace('"new"', '"new", ▸"new"'),
        "[queues.orders] routing_keys[1]: 'new' is named twice",
    ),
    "a routing key that is longer than AMQP takes": (
        START + ORDERS.replace('"new"', f'▸"{"é" * 128}"'),
        (
            "[queues.orders] routing_keys[0]: expected a routing key of at most 255 bytes, "
            f"got '{'é' * 80}…'"
        ),
    ),
    "routing keys on a fanout exchange": (
        START + ORDERS.replace('"orders"', '"news"', 1).replace("routing_keys", "▸routing_keys"),
        (
            "[queues.orders] routing_keys: has no effect on an exchange of type fanout: "
            "every queue gets every message"
        ),
    ),
    "routing keys on a hash exchange": (
        START + FEED + '▸routing_keys = ["x"]\n',
        (
            "[queues.feed] routing_keys: has no effect on an exchange of type x-consistent-hash: "
            "the ring decides"
        ),
    ),
    "two rings' worth of buckets in one": (
        START + FEED + "shards = 100\nweight = ▸101\n",
        "[queues.feed] weight: expected at most 10,000 buckets in the ring of 'feed', got 10,100",
    ),
    "a second queue with which a ring grows too large": (
        START + FEED + "weight = 9999\n" + FEED.replace("feed]", "more]") + "shards = ▸2\n",
        "[queues.more] shards: expected at most 10,000 buckets in the ring of 'feed', got 10,001",
    ),
}

WRONG_OPTIONS = {
    "a misspelt option": ("▸prefech = 5", "prefech: unknown option; did you mean 'prefetch'?"),
    "an option that is nothing known": ("▸zzz = 5", "zzz: unknown option"),
    "a prefetch that is a text": (
        'prefetch = ▸"5"',
        "prefetch: expected a positive integer, got '5'",
    ),
    "a prefetch that is true": (
        "prefetch = ▸true",
        "prefetch: expected a positive integer, got true",
    ),
    "a prefetch that is a fraction": (
        "prefetch = ▸1.5",
        "prefetch: expected a positive integer, got 1.5",
    ),
    "a prefetch that AMQP cannot carry": (
        "prefetch = ▸65536",
        "prefetch: expected at most 65,535, got 65536",
    ),
    "an integer of many digits": (
        f"max_messages = ▸0x{'f' * 9999}",
        "max_messages: expected at most 9,223,372,036,854,775,807, got a huge integer",
    ),
    "a date where an integer is due": (
        "max_messages = ▸2026-01-01",
        'max_messages: expected a positive integer or "unlimited", got 2026-01-01',
    ),
    "a flag that is a number": ("once = ▸1", "once: expected true or false, got 1"),
    "a handler without a colon": (
        'batch = { size = 1 }\nuser = ▸""',
        "user: expected a text that is not empty, got ''",
    ),
    "a queue type that is unknown": (
        'type = ▸"quorom"',
        "type: expected 'classic' or 'quorum', got 'quorom'; did you mean 'quorum'?",
    ),
    "shards on a direct exchange": (
        "▸shards = 2",
        "shards: has no effect on an exchange of type direct: only x-consistent-hash has a ring",
    ),
    "a weight on a direct exchange": (
        "▸weight = 2",
        "weight: has no effect on an exchange of type direct: only x-consistent-hash has a ring",
    ),
    "a batch of nothing": (
        "batch = { size = ▸0 }",
        "batch.size: expected a positive integer, got 0",
    ),
    "a batch that is a number": ("batch = ▸5", "batch: expected a table, got a number"),
    "a batch with an unknown option": (
        "batch = { ▸sise = 5 }",
        "batch.sise: unknown option; did you mean 'size'?",
    ),
    "a batch that waits without a size": (
        'batch = { ▸wait = "1s" }',
        "batch.wait: has no effect for one record at a time: expected size beside it",
    ),
    "a batch that waits longer than the consumer": (
        'idle_timeout = "1s"\nbatch = { size = 5, wait = ▸"2s" }',
        "batch.wait: expected less than idle_timeout (1s), got '2s'",
    ),
    "a duration that is a number": (
        "idle_timeout = ▸5",
        (
            'idle_timeout: expected a duration such as "500ms", "20s" or "1h30m" or "never", '
            "got 5; did you mean '5s'?"
        ),
    ),
    "a duration in words": (
        'idle_timeout = ▸"5 minutes"',
        (
            'idle_timeout: expected a duration such as "500ms", "20s" or "1h30m" or "never", '
            "got '5 minutes'; did you mean '5m'?"
        ),
    ),
    "a duration in the wrong order": (
        'stop_timeout = ▸"1s5m"',
        'stop_timeout: expected a duration such as "500ms", "20s" or "1h30m", got \'1s5m\'',
    ),
    "a duration of nothing": (
        'stop_timeout = ▸"0s"',
        "stop_timeout: expected a duration of at least 1ms, got '0s'",
    ),
    "a duration that brokers cannot hold": (
        'message_ttl = ▸"50d"',
        "message_ttl: expected a duration of at most 49d, got '50d'",
    ),
    "a size without its unit": (
        "memory_limit = ▸512",
        'memory_limit: expected a size such as "512MB" or "1GB", or "unlimited", got 512',
    ),
    "a size that is nearly one": (
        'memory_limit = ▸"512 mb"',
        (
            'memory_limit: expected a size such as "512MB" or "1GB", or "unlimited", '
            "got '512 mb'; did you mean '512MB'?"
        ),
    ),
    "a retry without delays": (
        'retry = ▸{ then = "drop" }',
        "retry.delays: expected an array of durations, at least one, got nothing",
    ),
    "a retry of no delays": (
        'retry = { delays = ▸[], then = "drop" }',
        "retry.delays: expected an array of durations, at least one, got an empty array",
    ),
    "a retry with one delay that is none": (
        'retry = { delays = ["1s", ▸"soon"], then = "drop" }',
        'retry.delays[1]: expected a duration such as "500ms", "20s" or "1h30m", got \'soon\'',
    ),
    "a bounded retry with no end": (
        'retry = ▸{ delays = ["1s"] }',
        (
            "retry.then: expected 'dead-letter' or 'drop' after the last delay, or repeat = true, "
            "got nothing"
        ),
    ),
    "a retry with an end that is unknown": (
        'retry = { delays = ["1s"], then = ▸"dead" }',
        "retry.then: expected 'dead-letter' or 'drop', got 'dead'",
    ),
    "an endless retry with an end": (
        'retry = { delays = ["1s"], repeat = true, ▸then = "drop" }',
        "retry.then: has no effect: the last delay repeats without end (repeat = true)",
    ),
    "once and stream": (
        "once = true\n▸stream = true\n[store]\nurl = 'sqlite:///s.db'",
        "stream: cannot be combined with once: without a transaction nothing commits together",
    ),
    "once without a store": (
        "▸once = true",
        (
            "once: needs a store: without one nothing keeps which messages were handled; "
            'expected [store] beside it, such as url = "sqlite:///var/store.db"'
        ),
    ),
    "once where messages may be delivered again after they are forgotten": (
        '▸once = true\ndead_letters = { max_age = "30d" }\n[store]\nurl = "sqlite:///s.db"',
        (
            "once: messages of 'orders' may be delivered again after 30d11m11s: "
            "expected a longer keep_handled in [store]"
        ),
    ),
    "overflow without a maximal length": (
        '▸overflow = "drop-head"',
        "overflow: has no effect without max_length: the queue cannot overflow",
    ),
    "a delivery limit of none": (
        "delivery_limit = ▸0",
        "delivery_limit: expected a positive integer, got 0",
    ),
    "priorities on a quorum queue": (
        'type = "quorum"\narguments = { ▸x-max-priority = 5 }',
        'arguments.x-max-priority: a quorum queue does not have it: expected type = "classic"',
    ),
    "a dead letter strategy on a classic queue": (
        'arguments = { ▸x-dead-letter-strategy = "at-least-once" }',
        (
            "arguments.x-dead-letter-strategy: a classic queue does not have it: expected"
            ' type = "quorum"'
        ),
    ),
    "an exclusive queue": (
        'type = "quorum"\narguments = { ▸exclusive = true }',
        (
            "arguments.exclusive: is not an argument: queues of feedbus are always durable,"
            " shared and permanent"
        ),
    ),
    "an argument that an option says": (
        "arguments = { ▸x-message-ttl = 5 }",
        "arguments.x-message-ttl: is set by feedbus itself: expected message_ttl of the queue",
    ),
    "an argument that equals nothing, itself included": (
        "arguments = { x-nan = ▸nan }",
        "arguments.x-nan: expected a finite number, got nan",
    ),
    "an argument without an end": (
        "arguments = { x-inf = ▸-inf }",
        "arguments.x-inf: expected a finite number, got -inf",
    ),
    "an argument of more than 64 bits": (
        "arguments = { x-huge = ▸9223372036854775808 }",
        "arguments.x-huge: expected an integer of 64 bits, got a huge integer",
    ),
    "an argument that is a date": (
        "arguments = { x-at = ▸1979-05-27T07:32:00Z }",
        (
            "arguments.x-at: expected a text, an integer, a number, true or false, "
            "got 1979-05-27 07:32:00+00:00"
        ),
    ),
    "an argument that is an array": (
        "arguments = { x-many = ▸[1] }",
        "arguments.x-many: expected a text, an integer, a number, true or false, got an array",
    ),
    "an argument that is a long text": (
        f'arguments = {{ x-long = ▸"{"é" * 513}" }}',
        f"arguments.x-long: expected a text of at most 1,024 bytes, got '{'é' * 80}…'",
    ),
    "an argument whose number is negative": (
        "arguments = { x-max-length-bytes = ▸-1 }",
        "arguments.x-max-length-bytes: expected an integer from 0 to 9223372036854775807, got -1",
    ),
    "an argument whose number is no integer": (
        "arguments = { x-expires = ▸1.5 }",
        "arguments.x-expires: expected an integer from 1 to 4294967295, got 1.5",
    ),
    "an argument whose number is a truth": (
        "arguments = { x-max-priority = ▸true }",
        "arguments.x-max-priority: expected an integer from 1 to 255, got true",
    ),
    "an argument with a very long name": (
        f"arguments = {{ ▸{'x' * 256} = 1 }}",
        (
            f"arguments.{'x' * 256}: expected an argument's name of at most 255 bytes, "
            f"got '{'x' * 80}…'"
        ),
    ),
    "an argument that is a table": (
        "arguments = { x-thing = ▸{} }",
        (
            "arguments.x-thing: expected a text, an integer, a number, true or false, "
            "got an empty table"
        ),
    ),
}

WRONG_RINGS = {
    "a weight below 1": ("weight = ▸0", "weight: expected a positive integer, got 0"),
    "shards below 1": ("shards = ▸0", "shards: expected a positive integer, got 0"),
    "more shards than a ring has buckets": (
        "shards = ▸10001",
        "shards: expected at most 10,000, got 10001",
    ),
    "weights without shards": (
        "▸weights = { 3 = 2 }",
        "weights: names shards, but the queue has none: expected weight, or shards beside it",
    ),
    "the weight of a shard that does not exist": (
        "shards = 3\nweights = { 2 = 2, ▸3 = 2 }",
        "weights.3: expected the number of a shard from 0 to 2, got 3",
    ),
    "the weight of a shard that is no number": (
        "shards = 3\nweights = { ▸one = 2 }",
        "weights.one: expected the number of a shard, got 'one'",
    ),
    "a single weight below 1": (
        "shards = 3\nweights = { 2 = ▸0 }",
        "weights.2: expected a positive integer, got 0",
    ),
    "a weight beside weights for every shard": (
        "shards = 2\n▸weight = 5\nweights = { 0 = 1, 1 = 2 }",
        "weight: has no effect: weights names every shard",
    ),
}


@pytest.mark.parametrize(("marked", "reported"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_reported_at_its_place(tmp_path, marked, reported):
    assert_reported(tmp_path, marked, reported)


@pytest.mark.parametrize(("option", "reported"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_a_wrong_option_of_a_queue_is_reported_at_its_place(tmp_path, option, reported):
    assert_reported(tmp_path, f"{START}{ORDERS}{option}\n", f"[queues.orders] {reported}")


@pytest.mark.parametrize(("option", "reported"), WRONG_RINGS.values(), ids=WRONG_RINGS)
def test_a_wrong_ring_is_reported_at_its_place(tmp_path, option, reported):
    assert_reported(tmp_path, f"{START}{FEED}{option}\n", f"[queues.feed] {reported}")


def test_every_problem_in_a_topology_is_reported_in_one_pass_in_the_order_of_the_file(tmp_path):
    marked = (
        START.replace('"topic"', '▸"topics"')
        + '[broker]\nurl = ▸"http://x"\n'
        + '[queues.a]\nexchange = ▸"feeds"\nhandler = ▸"x"\nretry = ▸{ delays = [▸"x"] }\n'
        + "▸[queues.b]\nexchange = 'feed'\nweight = ▸0\nshards = ▸0\n▸shads = 1\n"
        + "▸▸[queues.▸'b c']\nbatch = { size = ▸0, wait = ▸0 }\n"
        + "[processes.p]\ncommand = ▸7\n[▸procesess]\n"
    )
    path = write(tmp_path, marked.replace(MARK, ""))
    found = [f"{problem.line}:{problem.column}" for problem in problems_of(path)]
    assert found == places(marked)


def test_a_problem_reports_its_parts(tmp_path):
    path = write(tmp_path, START + ORDERS.replace('exchange = "orders"', 'exchange = "order"'))
    assert problems_of(path) == (
        Problem(
            file=str(path),
            line=8,
            column=12,
            table="queues.orders",
            key="exchange",
            message="no exchange named 'order'",
            expected="one of orders, mail, news, feed",
            got="'order'",
            suggestion="orders",
        ),
    )


def test_columns_count_characters_and_not_bytes(tmp_path):
    assert_reported(
        tmp_path,
        START + FEED + '"arguments" = { "é😀" = "ü", "x" = ▸[] }\n',
        "[queues.feed] arguments.x: expected a text, an integer, a number, true or false, "
        "got an empty array",
    )


@pytest.mark.parametrize(
    "written",
    [
        "[queues.feed.batch]\nsize = ▸0\n",
        "[queues.feed]\nbatch.size = ▸0\n",
        "[queues]\nfeed.batch = { 'size' = ▸0 }\n",
        'queues."feed".batch."size" = ▸0\n',
        "[ queues . feed ]\r\nbatch = {\tsize = ▸0 } # why\r\n",
    ],
    ids=["header", "dotted key", "inline", "quoted", "blanks and CRLF"],
)
def test_a_value_is_found_however_toml_spells_its_path(tmp_path, written):
    rest = '[defaults.queue]\nexchange = "feed"\nhandler = "a:b"\n'
    body = written + START[14:] if written.startswith("queues.") else START[14:] + written
    marked = f'name = "shop"\n{body}{rest}'
    path = write(tmp_path, marked.replace(MARK, ""))
    (problem,) = problems_of(path)
    assert f"{problem.line}:{problem.column}" == places(marked)[0]
    assert problem.message == "expected a positive integer, got 0"


@pytest.mark.parametrize(
    ("marked", "reported"),
    [
        ("name = ▸\n", "this is not TOML: invalid value"),
        ("name = 1\nname = 2▸\n", "this is not TOML: cannot overwrite a value"),
        ("name = [1,\n▸", "this is not TOML: invalid value"),
        ("a = 1\n\n[x▸\ny = 2", "this is not TOML: expected ']' at the end of a table declaration"),
        ("▸é = 1\n", "this is not TOML: invalid statement"),
    ],
    ids=["no value", "a key twice", "cut off", "a bracket open", "a bare key beyond ASCII"],
)
def test_a_file_that_is_not_toml_is_reported_with_its_line_and_column(tmp_path, marked, reported):
    assert_reported(tmp_path, marked, reported)


def test_an_empty_file_is_reported_with_what_it_needs(tmp_path):
    path = write(tmp_path, "")
    assert [(p.line, p.column, p.key, p.got) for p in problems_of(path)] == [
        (1, 1, "name", "nothing"),
        (1, 1, "exchanges", "nothing"),
        (1, 1, "queues", "nothing"),
    ]


def test_a_file_that_is_nested_too_deeply_is_reported(tmp_path):
    (problem,) = problems_of(write(tmp_path, "a = " + "[" * 100_000))
    assert problem.message == "too deeply nested: expected fewer brackets within brackets"


def test_a_file_that_is_not_utf_8_is_reported_with_its_line_and_column(tmp_path):
    path = tmp_path / "topology.toml"
    path.write_bytes(
        'name = "é"\nvar = "\xe9"\n'.encode("latin-1").replace(b"\xe9", "é".encode(), 1)
    )
    (problem,) = problems_of(path)
    assert str(problem) == f"{path}:2:8: expected UTF-8, got the byte 0xe9"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.toml", "no such file or directory"),
        (".", "is a directory"),
        ("topology.toml/x", "not a directory"),
        ("x" * 300, "file name too long"),
        ("a\0b", "no such file"),
    ],
    ids=["missing", "a folder", "below a file", "too long a name", "a name with NUL"],
)
def test_a_file_that_cannot_be_read_is_reported_by_its_reason(tmp_path, name, reason):
    write(tmp_path, START + ORDERS)
    (problem,) = problems_of(tmp_path / name)
    assert (problem.line, problem.column) == (1, 1)
    assert problem.message.startswith(f"cannot be read: {reason}")


def test_a_file_without_end_is_refused():
    (problem,) = problems_of(Path("/dev/zero"))
    assert problem.message == "expected at most 10,000,000 bytes, got more"


def test_a_good_topology_has_every_option_in_its_place(tmp_path):
    path = write(
        tmp_path,
        textwrap.dedent(
            """\
            name = "shop"
            var = "state"
            [broker]
            url = "pyamqp://me:pass@host:5673/v"
            [store]
            url = "postgresql://me@host/shop"
            prepare = "store.migrations:migrate"
            [exchanges]
            feed = { type = "x-consistent-hash", pack = 500 }
            mail = { type = "topic", arguments = { alternate-exchange = "lost" } }
            [defaults.queue]
            retry = { delays = ["20ms", "1h30m"], then = "drop" }
            max_messages = 5
            weight = 3
            [queues.feed]
            exchange = "feed"
            handler = "handlers.feed:take"
            shards = 4
            weights = { 2 = 7 }
            batch = { size = 1_000, wait = "20ms" }
            [queues."mail.all"]
            exchange = "mail"
            routing_keys = ["#", "a.*", ""]
            handler = "handlers.mail:send"
            retry = { delays = ["1d"], repeat = true }
            prefetch = 7
            once = true
            type = "quorum"
            single_active_consumer = true
            delivery_limit = 9
            message_ttl = "1d"
            max_length = 1000
            overflow = "reject-publish"
            arguments = { x-quorum-initial-group-size = 3 }
            idle_timeout = "5m"
            max_runtime = "1.5h"
            max_messages = "unlimited"
            handler_timeout = "30s"
            memory_limit = "64MiB"
            processes = 2
            user = "nobody"
            start_retries = 0
            stop_timeout = "500ms"
            [processes.web]
            command = "python -m 'the web'"
            processes = 3
            user = "www"
            start_retries = 4
            stop_timeout = "2s"
            memory_limit = "512MB"
            environment = { PORT = "80", EMPTY = "" }
            [commands]
            demo = "web.demo:demo"
            """
        ),
    )
    topology = config.load(path, environ={})
    assert (topology.name, topology.path, topology.root) == ("shop", path, tmp_path)
    assert topology.var == tmp_path / "state"
    assert topology.broker_url.reveal() == "pyamqp://me:pass@host:5673/v"
    assert str(topology.store_url) == "postgresql://me@host/shop"
    assert topology.store.prepare == "store.migrations:migrate"
    assert dict(topology.commands) == {"demo": "web.demo:demo"}
    assert dict(topology.exchanges) == {
        "feed": Exchange("feed", "x-consistent-hash", pack=500),
        "mail": Exchange("mail", "topic", arguments={"alternate-exchange": "lost"}),
    }
    assert topology.queues["feed"] == Queue(
        name="feed",
        exchange="feed",
        handler="handlers.feed:take",
        shards=4,
        weights=(3, 3, 7, 3),
        batch=Batch(1000, 0.02),
        retry=RetryPolicy((0.02, 5400.0), "drop"),
        max_messages=5,
        order_by=True,
        single_active_consumer=True,
    )
    assert topology.queues["mail.all"] == Queue(
        name="mail.all",
        exchange="mail",
        handler="handlers.mail:send",
        routing_keys=("#", "a.*", ""),
        retry=RetryPolicy((86400.0,), "repeat"),
        prefetch=7,
        once=True,
        type="quorum",
        single_active_consumer=True,
        delivery_limit=9,
        message_ttl_seconds=86400.0,
        max_length=1000,
        overflow="reject-publish",
        arguments={"x-quorum-initial-group-size": 3},
        idle_timeout_seconds=300.0,
        max_runtime_seconds=5400.0,
        max_messages=None,
        handler_timeout_seconds=30.0,
        memory_limit_bytes=64 * 2**20,
        processes=2,
        user="nobody",
        start_retries=0,
        stop_timeout_seconds=0.5,
    )
    assert dict(topology.processes) == {
        "web": Process(
            name="web",
            command=("python", "-m", "the web"),
            processes=3,
            user="www",
            start_retries=4,
            stop_timeout_seconds=2.0,
            memory_limit_bytes=512_000_000,
            environment={"PORT": "80", "EMPTY": ""},
        )
    }


def test_operations_are_on_and_on_loopback_unless_the_file_says_otherwise(tmp_path):
    def loaded(text):
        return config.load(write(tmp_path, START + ORDERS + text), environ={})

    assert loaded("").operations == Operations("127.0.0.1", None)
    assert list(loaded("").supervised) == ["operations"]
    chosen = loaded('[operations]\nhost = "::"\nport = 0\n')
    assert chosen.operations == Operations("::", 0)
    off = loaded('[operations]\nenabled = false\n[processes.operations]\ncommand = "x"\n')
    assert off.operations is None
    assert off.supervised["operations"].command == ("x",)


def test_a_bare_topology_has_safe_defaults(tmp_path):
    topology = config.load(write(tmp_path, START + ORDERS), environ={})
    assert str(topology.broker_url) == f"sqlite:///{tmp_path}/var/broker.db"
    assert topology.store is None
    assert topology.var == tmp_path / "var"
    assert topology.queues["orders"] == Queue(
        "orders", "orders", "handlers.orders:take", routing_keys=("new",)
    )


def test_an_option_of_a_queue_replaces_the_inherited_one_as_a_whole(tmp_path):
    text = START + ORDERS + 'batch = { size = 5 }\nidle_timeout = "never"\n'
    text += '[defaults.queue]\nbatch = { size = 9, wait = "1s" }\nidle_timeout = "5m"\n'
    queue = config.load(write(tmp_path, text), environ={}).queues["orders"]
    assert queue.batch == Batch(5, 0.0)
    assert queue.idle_timeout_seconds is None


def test_a_queue_does_not_inherit_what_it_could_not_have(tmp_path):
    text = START + ORDERS + FEED + 'type = "quorum"\n'
    text += '[defaults.queue]\nweight = 4\nrouting_keys = ["x"]\n'
    queues = config.load(write(tmp_path, text), environ={}).queues
    orders, feed = queues["orders"], queues["feed"]
    assert (orders.weights, orders.routing_keys) == ((1,), ("new",))
    assert (feed.weights, feed.routing_keys) == ((4,), ())


@pytest.mark.parametrize(
    ("written", "environ", "read"),
    [
        ("${VAR_X}", {"VAR_X": "here"}, "here"),
        ("${VAR_X:-there}", {"VAR_X": "here"}, "here"),
        ("${VAR_X:-there}", {}, "there"),
        ("${VAR_X:-there}", {"VAR_X": ""}, "there"),
        ("a${VAR_X:-}b", {}, "ab"),
        ("$${VAR_X}", {}, "${VAR_X}"),
        ("$VAR_X", {"VAR_X": "here"}, "$VAR_X"),
        ("${VAR_X}", {"VAR_X": "${VAR_Y}"}, "${VAR_Y}"),
    ],
    ids=[
        "a variable that is set",
        "a default is not needed",
        "a default",
        "an empty variable is as good as none",
        "an empty default",
        "two dollars are one",
        "only braces make a variable",
        "what a variable holds is not read again",
    ],
)
def test_variables_are_replaced_in_texts(tmp_path, written, environ, read):
    text = START + ORDERS + f'[processes.web]\ncommand = ["x", "{written}"]\n'
    topology = config.load(write(tmp_path, text), environ=environ)
    assert topology.processes["web"].command == ("x", read)


def test_each_variable_that_is_unset_is_reported_and_nothing_else_of_its_value(tmp_path):
    text = START + ORDERS + '[broker]\nurl = "${VAR_X}://${VAR_Y}"\n'
    reported = [problem.message for problem in problems_of(write(tmp_path, text))]
    assert reported == [
        f"variable {name} is not set and has no default" for name in ("VAR_X", "VAR_Y")
    ]


def test_relative_places_start_in_the_folder_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "system").mkdir()
    text = f'var = "../state"\n{START}{ORDERS}[broker]\nurl = "sqlite:///b/c.db"\n'
    write(tmp_path / "system", f'{text}[store]\nurl = "sqlite:////abs/d.db"\n')
    monkeypatch.chdir(tmp_path)
    topology = config.load(Path("system/topology.toml"), environ={})
    assert topology.path == tmp_path / "system/topology.toml"
    assert topology.var == tmp_path / "state"
    assert str(topology.broker_url) == f"sqlite:///{tmp_path}/system/b/c.db"
    assert str(topology.store_url) == "sqlite:////abs/d.db"


numbers = itertools.count()


@pytest.fixture
def handlers(tmp_path, monkeypatch):
    """Write a module of handlers under a name of its own, and return that name."""
    name = f"handlers_of_config_{next(numbers)}"
    monkeypatch.syspath_prepend(tmp_path)
    source = """\
        from marshmallow import Schema
        from feedbus import handler

        @handler(Schema)
        def take(message, bus): ...

        @handler(Schema, batch=True)
        def take_many(records, bus): ...

        def plain(message, bus): ...
        """
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    return name


def with_handler(dotted: str, options: str = "") -> str:
    return START + ORDERS.replace('"handlers.orders:take"', f'▸"{dotted}"') + options


@pytest.mark.parametrize(
    ("name", "options"),
    [("take", ""), ("take_many", "batch = { size = 5 }"), ("take_many", "")],
    ids=["one record", "a batch", "a batch of one"],
)
def test_a_handler_that_fits_is_taken(tmp_path, handlers, name, options):
    path = write(tmp_path, with_handler(f"{handlers}:{name}", options).replace(MARK, ""))
    topology = config.load(path, environ={}, import_handlers=True)
    assert topology.queues["orders"].handler == f"{handlers}:{name}"


def test_a_handler_is_not_imported_unless_asked_for(tmp_path):
    path = write(tmp_path, with_handler("no_such_module:take").replace(MARK, ""))
    assert config.load(path, environ={}).queues["orders"].handler == "no_such_module:take"


def assert_handler_problem(folder: Path, dotted: str, reported: str, options: str = "") -> None:
    assert_reported(
        folder,
        with_handler(dotted, options),
        f"[queues.orders] handler: {reported}",
        import_handlers=True,
    )


def test_a_handler_whose_module_does_not_exist_is_reported_with_the_nearest(tmp_path, handlers):
    wrong = handlers.replace("config", "confg")
    reported = f"cannot import {wrong}: there is no such module; did you mean '{handlers}:take'?"
    assert_handler_problem(tmp_path, f"{wrong}:take", reported)


def test_a_handler_that_its_module_does_not_have_is_reported_with_the_nearest(tmp_path, handlers):
    reported = f"{handlers} has no 'tak'; did you mean '{handlers}:take'?"
    assert_handler_problem(tmp_path, f"{handlers}:tak", reported)


def test_a_function_that_is_no_handler_is_reported(tmp_path, handlers):
    reported = f"{handlers}:plain is not a handler: expected a function under @feedbus.handler"
    assert_handler_problem(tmp_path, f"{handlers}:plain", reported)


def test_a_batch_for_a_handler_of_single_records_is_reported(tmp_path, handlers):
    reported = "takes one record at a time: expected @handler(…, batch=True) for batch.size 2"
    assert_handler_problem(tmp_path, f"{handlers}:take", reported, "batch = { size = 2 }\n")


@pytest.mark.parametrize(
    ("source", "reported"),
    [
        ("x = 1\nx.y\n", "AttributeError: 'int' object has no attribute 'y' (NAME.py:2)"),
        ("x = 1\ndef (:\n", "invalid syntax (NAME.py:2)"),
        (
            "import no_such_thing\n",
            "ModuleNotFoundError: No module named 'no_such_thing' (NAME.py:1)",
        ),
        ("raise SystemExit(3)\n", "it exits with 3"),
    ],
    ids=["raises", "does not parse", "imports what is not there", "exits"],
)
def test_a_module_that_cannot_be_imported_is_reported_with_its_line(
    tmp_path, monkeypatch, source, reported
):
    name = f"broken_handlers_{next(numbers)}"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(source)
    reported = reported.replace("NAME", name)
    assert_handler_problem(tmp_path, f"{name}:take", f"cannot import {name}: {reported}")


def test_an_annotation_that_is_no_message_type_is_a_problem_with_file_and_line(tmp_path, handlers):
    with (tmp_path / f"{handlers}.py").open("a") as file:
        file.write("\nfrom feedbus import handler\n@handler\ndef of_an_int(order: int): ...\n")
    line = len((tmp_path / f"{handlers}.py").read_text().splitlines()) - 1
    reported = (
        f"of_an_int ({handlers}.py:{line}) takes int: expected a dataclass, a msgspec.Struct, "
    )
    reported += "a pydantic model, a marshmallow schema, dict, str or bytes"
    assert_handler_problem(tmp_path, f"{handlers}:of_an_int", reported)


def test_a_missing_extra_is_named_with_how_to_install_it(tmp_path, monkeypatch):
    name = f"modelled_handlers_{next(numbers)}"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pydantic", None)
    (tmp_path / f"{name}.py").write_text("import pydantic\n")
    reported = f"cannot import {name}: ModuleNotFoundError: import of pydantic halted; None in sys."
    reported += f"modules ({name}.py:1); install it with: pip install 'feedbus[pydantic]'"
    assert_handler_problem(tmp_path, f"{name}:take", reported)


def test_prepare_and_commands_are_looked_for_without_importing_them(tmp_path, handlers):
    (tmp_path / f"x{handlers}.py").write_text("raise RuntimeError")
    (tmp_path / f"y{handlers}").mkdir()
    (tmp_path / f"y{handlers}/__init__.py").write_text("raise RuntimeError('not today')")
    assert_reported(
        tmp_path,
        with_handler(f"{handlers}:take").replace(MARK, "")
        + f'[commands]\ngood = "x{handlers}:x"\nbad = ▸"absent_{handlers}.y:x"\n'
        f'worse = ▸"y{handlers}.z:x"\n',
        f"[commands] bad: cannot import absent_{handlers}.y: there is no such module",
        f"[commands] worse: cannot import y{handlers}.z: RuntimeError: not today",
        import_handlers=True,
    )


def test_what_a_module_prints_does_not_reach_stdout(tmp_path, handlers, capsys):
    with (tmp_path / f"{handlers}.py").open("a") as file:
        file.write("print('hello')\n")
    path = write(tmp_path, with_handler(f"{handlers}:take").replace(MARK, ""))
    config.load(path, environ={}, import_handlers=True)
    assert capsys.readouterr() == ("", "hello\n")


def test_the_projects_own_topology_is_right():
    topology = config.load(PROJECT / "topology.toml", environ={})
    shards = [f"update_feed_{shard}" for shard in range(10)]
    assert [name for name in topology.consumers if name.startswith("update_feed")] == shards
    assert topology.queues["update_feed"].batch == Batch(5000, 0.005)
    assert str(topology.broker_url) == f"sqlite:///{PROJECT}/var/broker.db"


def test_the_environment_of_the_process_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "SHOP_VAR", "from_here")
    path = write(tmp_path, f'var = "${{SHOP_VAR}}"\n{START}{ORDERS}')
    assert config.load(path).var == tmp_path / "from_here"


STRANGE = [
    "0", "-1", "1.5", "nan", "inf", "true", '""', '" "', '"x"', '"\\u0000"', '"😀"', "[]", "[[]]",
    "[1]", '["", ""]', "{}", "{ a = 1 }", '{ "" = {} }', "[{}]", "2026-01-01", "07:00:00",
    f"0x{'f' * 5000}", '"${X}"', '"${"', '"$$"', '"5m"', '"1GB"', '"never"', '"unlimited"',
]  # fmt: skip


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: value[:12])
def test_no_value_of_any_option_makes_more_than_problems(tmp_path, value):
    from feedbus.config.declaration import ProcessTable, QueueTable
    from feedbus.config.tables import options_of

    texts = [f"{option} = {value}\n" + START + ORDERS for option in ("var", "broker", "commands")]
    texts += [f"{START}{ORDERS}[{table}]\n{option} = {value}\n" for table, option in OPENED]
    for option in options_of(QueueTable()):
        kept = [line for line in FEED.splitlines() if not line.startswith(f"{option} ")]
        texts.append("\n".join([START, *kept, f"{option} = {value}\n"]))
    for option in options_of(ProcessTable()):
        texts.append(f"{START}{ORDERS}[processes.p]\n{option} = {value}\n")
    for text in texts:
        path = write(tmp_path, text)
        lines = text.splitlines()
        try:
            config.load(path, environ={})
        except TopologyError as error:
            for problem in error.problems:
                assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, text


OPENED = [
    ("broker", "url"),
    ("store", "url"),
    ("store", "prepare"),
    ("defaults", "queue"),
    ("exchanges2", "x"),
    ("commands", "x"),
    ("queues", "x"),
    ("processes", "x"),
    ("queues.x.batch", "size"),
    ("queues.x.retry", "delays"),
    ("queues.x.weights", "0"),
    ("queues.x.arguments", "x-max-priority"),
]


def test_the_nodes_of_a_cluster_are_tried_in_the_order_of_the_file(tmp_path):
    urls = ("amqp://a", "amqp://b:5673//", "amqps://c/?heartbeat=2")
    broker = f'[broker]\nurl = "{";".join(urls)}"\n'
    topology = config.load(write(tmp_path, START + broker + ORDERS), environ={})
    assert topology.broker_url.reveal() == ";".join(urls)
    assert [node.host for node in topology.broker_url.nodes] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("amqp://a;ampq://b", "got 'ampq://…'; did you mean 'amqp://'?"),
        ("amqp://a;sqlite:///b.db", "expected one file, or the nodes of one cluster"),
        ("amqp://a;", "expected the name or the address of one host"),
        ("amqp://a/?heartbeat=0", "expected heartbeat=SECONDS, more than 0, got another value"),
        ("amqp://a/?timeout=3", "or ssl_verify after '?', got 'timeout'"),
    ],
)
def test_each_node_of_a_cluster_is_checked(tmp_path, url, reported):
    path = write(tmp_path, f'{START}[broker]\nurl = "{url}"\n{ORDERS}')
    (problem,) = problems_of(path)
    assert (problem.table, problem.key) == ("broker", "url")
    assert reported in str(problem)
