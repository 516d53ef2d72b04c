"""Reading topology.toml: a correct file loads, and each mistake is reported at its position."""

from __future__ import annotations

import itertools
import os
import textwrap
from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import TopologyError
from feedbus.topology import Batch, Exchange, Operations, Process, Queue, RetryPolicy
from tests.topologies import (
    FEED,
    ORDERS,
    PROJECT,
    START,
    problems_of,
    write,
)


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


@pytest.mark.parametrize("url", ["sqlite:///var/broker.db", "amqp://localhost"])
def test_the_consumer_timeout_is_the_same_with_each_broker(tmp_path, url):
    path = write(tmp_path, f'{START}{ORDERS}[broker]\nurl = "{url}"\n')
    assert config.load(path, environ={}).consumer_timeout_seconds == 1800.0


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
        f"variable {name} is not set and has no default; expected {name} in the environment, or"
        f" ${{{name}:-default}}"
        for name in ("VAR_X", "VAR_Y")
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
    f"0x{'f' * 5000}", f'"{"9" * 5000}"', '"${X}"', '"${"', '"$$"', '"5m"', '"1GB"', '"never"',
    '"unlimited"',
]  # fmt: skip


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: value[:12])
def test_no_value_of_any_option_makes_more_than_problems(tmp_path, value):
    from feedbus.config.process_options import ProcessTable
    from feedbus.config.queue_options import QueueTable
    from feedbus.config.table_types import options_of

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
        (
            "amqp://a;sqlite:///b.db",
            "expected the URL of one SQLite file, or the URLs of the nodes",
        ),
        ("amqp://a;", "expected the name or the address of one host"),
        (
            "amqp://a/?heartbeat=0",
            "expected heartbeat=SECONDS with more than 0 seconds, got a different value",
        ),
        ("amqp://a/?timeout=3", "or ssl_verify after '?', got 'timeout'"),
    ],
)
def test_each_node_of_a_cluster_is_checked(tmp_path, url, reported):
    path = write(tmp_path, f'{START}[broker]\nurl = "{url}"\n{ORDERS}')
    (problem,) = problems_of(path)
    assert (problem.table, problem.key) == ("broker", "url")
    assert reported in str(problem)
