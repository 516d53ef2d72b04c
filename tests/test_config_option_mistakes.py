"""A wrong option of a queue or a ring is reported at its position, with the expected value."""

from __future__ import annotations

import pytest

from tests.topologies import FEED, ORDERS, START, assert_reported

WRONG_OPTIONS = {
    "a misspelt option": ("▸prefech = 5", "prefech: unknown option; did you mean 'prefetch'?"),
    "a misspelt option that is like the end of another one": (
        "▸retries = 5",
        "retries: unknown option; did you mean 'retry'?",
    ),
    "an option that is nothing known": (
        "▸zzz = 5",
        "zzz: unknown option; see the page 'topology.toml' of the reference",
    ),
    "an argument of the broker as an option": (
        "▸x-max-priority = 3",
        "x-max-priority: not an option; write arguments = { x-max-priority = … }",
    ),
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
    "a handler timeout above the default consumer timeout, on the embedded broker": (
        'handler_timeout = ▸"45m"',
        (
            "handler_timeout: expected less than consumer_timeout in [broker] (30m), because"
            " RabbitMQ would deliver the message again while its handler runs, got '45m'"
        ),
    ),
    "a handler timeout that is too long for RabbitMQ, on the embedded broker": (
        'handler_timeout = ▸"45m"\n[broker]\nconsumer_timeout = "40m"',
        (
            "handler_timeout: expected less than consumer_timeout in [broker] (40m), because"
            " RabbitMQ would deliver the message again while its handler runs, got '45m'"
        ),
    ),
    "a handler timeout that is too long for RabbitMQ": (
        'handler_timeout = ▸"45m"\n[broker]\nurl = "amqp://localhost"',
        (
            "handler_timeout: expected less than consumer_timeout in [broker] (30m), because"
            " RabbitMQ would deliver the message again while its handler runs, got '45m'"
        ),
    ),
    "a batch of nothing": (
        "batch = { size = ▸0 }",
        "batch.size: expected a positive integer, got 0",
    ),
    "a batch that is a number": (
        "batch = ▸5",
        'batch: expected a table such as { size = 1, wait = "0s" }, got a number',
    ),
    "a retry policy that has only the delays": (
        'retry = ▸["1s"]',
        (
            'retry: expected a table such as { delays = ["1s", "10s", "1m", "10m"],'
            ' then = "dead-letter" }, got an array'
        ),
    ),
    "a batch with an unknown option": (
        "batch = { ▸sise = 5 }",
        "batch.sise: unknown option; did you mean 'size'?",
    ),
    "a batch that waits without a size": (
        'batch = { ▸wait = "1s" }',
        (
            "batch.wait: has no effect without size: each batch then has one record;"
            " expected size as well"
        ),
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
        (
            'memory_limit: expected a size such as "512MB" or "1GB", or "unlimited", got 512;'
            " did you mean '512MB'?"
        ),
    ),
    "a size without its unit in quotes": (
        'memory_limit = ▸"512"',
        (
            'memory_limit: expected a size such as "512MB" or "1GB", or "unlimited",'
            " got '512'; did you mean '512MB'?"
        ),
    ),
    "a number of bytes without its unit": (
        "memory_limit = ▸536870912",
        (
            'memory_limit: expected a size such as "512MB" or "1GB", or "unlimited",'
            " got 536870912; did you mean '536870912B'?"
        ),
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
        (
            "stream: cannot be combined with once: a stream has no transaction of the store;"
            " expected either once or stream"
        ),
    ),
    "once without a store": (
        "▸once = true",
        (
            "once: needs a store, in which feedbus keeps the ids of handled messages; "
            'expected a table [store], such as url = "sqlite:///var/store.db"'
        ),
    ),
    "overflow without a maximal length": (
        '▸overflow = "drop-head"',
        (
            "overflow: has no effect without max_length: the queue cannot overflow; expected"
            " max_length as well"
        ),
    ),
    "a delivery limit of none": (
        "delivery_limit = ▸0",
        "delivery_limit: expected a positive integer, got 0",
    ),
    "priorities on a quorum queue": (
        'type = "quorum"\narguments = { ▸x-max-priority = 5 }',
        (
            "arguments.x-max-priority: is not an argument of quorum queues: remove it, or set"
            " type ="
            ' "classic"'
        ),
    ),
    "a dead letter strategy on a classic queue": (
        'arguments = { ▸x-dead-letter-strategy = "at-least-once" }',
        (
            "arguments.x-dead-letter-strategy: is not an argument of classic queues: remove it,"
            " or set"
            ' type = "quorum"'
        ),
    ),
    "an exclusive queue": (
        'type = "quorum"\narguments = { ▸exclusive = true }',
        (
            "arguments.exclusive: cannot be set: queues of feedbus are always durable and"
            " permanent, never exclusive"
        ),
    ),
    "an argument that an option says": (
        "arguments = { ▸x-message-ttl = 5 }",
        (
            "arguments.x-message-ttl: is set by feedbus itself: remove it, and set message_ttl of"
            " the queue instead"
        ),
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
        "weights: has no effect without shards: set shards, or set weight instead",
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


@pytest.mark.parametrize(("option", "reported"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_a_wrong_option_of_a_queue_is_reported_at_its_place(tmp_path, option, reported):
    assert_reported(tmp_path, f"{START}{ORDERS}{option}\n", f"[queues.orders] {reported}")


@pytest.mark.parametrize(("option", "reported"), WRONG_RINGS.values(), ids=WRONG_RINGS)
def test_a_wrong_ring_is_reported_at_its_place(tmp_path, option, reported):
    assert_reported(tmp_path, f"{START}{FEED}{option}\n", f"[queues.feed] {reported}")
