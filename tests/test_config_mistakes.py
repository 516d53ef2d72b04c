"""Every wrong value of a topology is reported at its place, with what was expected."""

from __future__ import annotations

import pytest

from tests.topologies import (
    FEED,
    ORDERS,
    START,
    assert_reported,
)

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
            "[exchanges] feed.arguments.hash-header: cannot be set on a hash exchange: "
            "feedbus sets it itself"
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
            "'shop.db:engine', for adapter = \"sqlalchemy\", got nothing"
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
            "[queues.Orders] expected another name: 'Orders' (in other case: 'orders') is already "
            "the name of a consumer or process of [queues.orders]"
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
        "batch.wait: has no effect without size, because there is no batch to wait for",
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
        "stream: cannot be combined with once: a stream has no transaction of the store",
    ),
    "once without a store": (
        "▸once = true",
        (
            "once: needs a store, in which feedbus records which messages were handled; "
            'expected a table [store], such as url = "sqlite:///var/store.db"'
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
        "weights: has no effect without shards: expected weight, or shards in addition",
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
