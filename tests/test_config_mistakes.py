"""A wrong table, exchange or process is reported at its position, with the expected value."""

from __future__ import annotations

import pytest

from tests.topologies import ORDERS, START, assert_reported

WRONG_FILES = {
    "an unknown key at the top": (
        "▸names = 1\n" + START + ORDERS,
        "names: unknown key; did you mean 'name'?",
    ),
    "an unknown table": (
        START + ORDERS + "[▸brokr]\nurl = 1\n",
        "[brokr] unknown key; did you mean 'broker'?",
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
        (
            "name: expected another name, because the broker reserves names that begin with"
            " 'amq.', got 'amq.x'"
        ),
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
            "[exchanges] feed.arguments.hash-header: cannot be set on an exchange of type"
            " x-consistent-hash: feedbus sets it itself"
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
            "[processes.Operations] expected another name: 'Operations' is a process of feedbus"
            " itself, see [operations]"
        ),
    ),
    "a port that is none": (
        START + ORDERS + "[operations]\nport = ▸70000\n",
        "[operations] port: expected at most 65,535, got 70000",
    ),
    "a command of the project that is no dotted name": (
        START + ORDERS + '[commands]\ndemo = ▸"web.demo"\n',
        (
            "[commands] demo: expected a dotted name such as 'package.module:name', got 'web.demo';"
            " did you mean 'web:demo'?"
        ),
    ),
}


@pytest.mark.parametrize(("marked", "reported"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_reported_at_its_place(tmp_path, marked, reported):
    assert_reported(tmp_path, marked, reported)
