"""A wrong queue is reported at its position: its name, its exchange, its routing keys."""

from __future__ import annotations

import pytest

from tests.topologies import FEED, ORDERS, START, assert_reported

WRONG_FILES = {
    "a queue type that is unknown, and nothing more that follows from it": (
        START + ORDERS + 'type = ▸"quorun"\ndelivery_limit = 3\n',
        (
            "[queues.orders] type: expected 'classic' or 'quorum', got 'quorun'; "
            "did you mean 'quorum'?"
        ),
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
            "the broker accepts 255 bytes, and feedbus adds a prefix and a suffix to the name"
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
            "[queues.Orders] expected another name: 'Orders' differs only in case from 'orders', "
            "which is already the name of a consumer or process of [queues.orders]"
        ),
    ),
    "a queue named like the lock": (
        START + ORDERS + ORDERS.replace("orders]", "▸lock]", 1),
        (
            "[queues.lock] expected another name: feedbus itself uses the queue 'lock' as the"
            " lock of the topology"
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
            "[queues.orders] routing_keys: no message reaches this queue: expected routing_keys,"
            " because the exchange 'orders' is of type direct"
        ),
    ),
    "a topic queue with no routing key in its array": (
        START + ORDERS.replace('"orders"', '"mail"', 1).replace('["new"]', "▸[]"),
        (
            "[queues.orders] routing_keys: no message reaches this queue: expected routing_keys,"
            " because the exchange 'mail' is of type topic"
        ),
    ),
    "a topic pattern that is malformed": (
        START + ORDERS.replace('"orders"', '"mail"', 1).replace('"new"', '"a.*", ▸"a.b*"'),
        (
            "[queues.orders] routing_keys[1]: expected words joined by dots, in which '*' and"
            " '#' are words of their own, got 'a.b*'"
        ),
    ),
    "a topic pattern with an empty word": (
        START + ORDERS.replace('"orders"', '"mail"', 1).replace('"new"', '▸"a..b"'),
        (
            "[queues.orders] routing_keys[0]: expected words joined by dots, in which '*' and"
            " '#' are words of their own, got 'a..b'"
        ),
    ),
    "a routing key that is named twice": (
        START + ORDERS.replace('"new"', '"new", ▸"new"'),
        "[queues.orders] routing_keys[1]: 'new' is listed twice; expected each routing key once",
    ),
    "a routing key that is longer than AMQP takes": (
        START + ORDERS.replace('"new"', f'▸"{"é" * 128}"'),
        (
            "[queues.orders] routing_keys[0]: expected a routing key of at most 255 bytes, "
            f"without NUL, got '{'é' * 80}…'"
        ),
    ),
    "a routing key with the character NUL": (
        START + ORDERS.replace('"new"', r'▸"a\u0000b"'),
        (
            "[queues.orders] routing_keys[0]: expected a routing key of at most 255 bytes, "
            "without NUL, got 'a\\x00b'"
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
            "[queues.feed] routing_keys: has no effect on an exchange of type x-consistent-hash:"
            " the hash of the routing key selects the shard"
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


@pytest.mark.parametrize(("marked", "reported"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_reported_at_its_place(tmp_path, marked, reported):
    assert_reported(tmp_path, marked, reported)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("feed.held", "feed"),
        ("feed.01234abc", "feed"),
        ("orders.dead", "orders"),
        ("orders.retry.1000.parked", "orders"),
        ("orders.waiting", "orders"),
        ("orders.01234abc.waiting", "orders"),
    ],
)
def test_a_queue_cannot_have_the_name_of_an_object_of_feedbus(tmp_path, name, owner):
    marked = START + ORDERS + ORDERS.replace("orders]", f'▸"{name}"]', 1)
    reported = f"expected another name: '{name}' is a name that feedbus itself uses for '{owner}'"
    assert_reported(tmp_path, marked, f'[queues."{name}"] {reported}')
