"""The messages that operators read most often, in one table: a change of a text changes this file.

Problems of a topology are reported by loading one. The other texts are compared with the source:
there, {} stands for whatever the message names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import TopologyError

FEEDBUS = Path(__file__).parents[1] / "feedbus"
TOPOLOGY = """
name = "shop"
[exchanges]
orders = { type = "x-consistent-hash" }
mail = { type = "direct" }
[queues.reserve]
exchange = "orders"
handler = "shop:reserve"
shards = 4
[queues.mail]
exchange = "mail"
handler = "shop:mail"
routing_keys = ["mail"]
"""

# What is changed in the topology, and the whole line that `feedbus check`, `plan`, `apply` and `up`
# print for it: file, line, column, table, option, what was expected, what was found.
PROBLEMS = [
    (
        ('exchange = "orders"', 'exchange = "ordres"'),
        (
            "topology.toml:7:12: [queues.reserve] exchange: no exchange named 'ordres'; did you"
            " mean 'orders'?"
        ),
    ),
    (
        ("shards = 4", "shard = 4"),
        "topology.toml:9:1: [queues.reserve] shard: unknown option; did you mean 'shards'?",
    ),
    (
        ("shards = 4", "shards = 4\nweight = 0"),
        "topology.toml:10:10: [queues.reserve] weight: expected a positive integer, got 0",
    ),
    (
        ("shards = 4", 'retry = { delays = [5], then = "drop" }'),
        (
            "topology.toml:9:21: [queues.reserve] retry.delays[0]: expected a duration such as"
            ' "500ms", "20s" or "1h30m", got 5; did you mean \'5s\'?'
        ),
    ),
    (
        ('\nrouting_keys = ["mail"]', ""),
        (
            "topology.toml:10:1: [queues.mail] routing_keys: no message reaches this queue:"
            " expected routing_keys, because the exchange 'mail' is of type direct"
        ),
    ),
    (
        ('handler = "shop:mail"\n', ""),
        (
            "topology.toml:10:1: [queues.mail] handler: expected a dotted name such as"
            " 'package.module:name', got nothing"
        ),
    ),
    (
        ("shards = 4", "once = true"),
        (
            "topology.toml:9:1: [queues.reserve] once: needs a store, in which feedbus keeps"
            ' the ids of handled messages; expected a table [store], such as url = "sqlite:///var/store.db"'
        ),
    ),
    (
        ('name = "shop"', 'name = "shop"\n[broker]\nurl = "amqp://guest:${PASSWORD}@rabbit//"'),
        (
            "topology.toml:4:7: [broker] url: variable PASSWORD is not set and has no default;"
            " expected PASSWORD in the environment, or ${PASSWORD:-default}"
        ),
    ),
    (
        ("shards = 4", "shards = [4"),
        "topology.toml:10:1: expected ',' or ']', got '['; end the array with ']'",
    ),
]

MESSAGES = {
    "apply/steps.py": (
        "another `feedbus apply` is running ({} is locked); wait until it has ended, or stop it",
        "nothing was changed, because these changes are dangerous:\n{}",
        "{}: publishing switched to generation {}",
    ),
    "broker/locks.py": (
        (
            "another `feedbus apply` or `feedbus up` is running (it has locked {} on the broker);"
            " wait until it has ended, or stop it"
        ),
    ),
    "cli/apply.py": ("not every change was made; the lines above have the reasons",),
    "cli/plan.py": (
        "nothing to change",
        ("{} dangerous: `feedbus apply` changes nothing because of the lines marked with !"),
    ),
    "cli/restart.py": ("nothing runs in {}; start it with `feedbus up`",),
    "cli/status_table.py": ("nothing runs in {}; start it with `feedbus up`",),
    "cli/up.py": ("everything is ready after {} s; logs are in {}",),
    "dead_letters/requeue.py": ("{}: the broker has no queue {}; `feedbus up` declares it",),
    "dispatch/failed_record_sender.py": (
        "a message became a dead letter; `feedbus dead show` prints it",
    ),
    "dispatch/handler_calls.py": (
        "the handler raised an exception for a record; the queue's retry policy applies",
        ("the handler raised an exception for a batch; feedbus now calls it for each record alone"),
    ),
    "operations/operations_process.py": (
        (
            "port {} is in use by another program, so this process listens on port {}; `feedbus"
            " status` shows the address"
        ),
    ),
    "process/slots.py": (
        (
            "{} already runs as process {} in slot {}; choose another --slot, or stop that process"
            " first: `feedbus down` stops all processes, and `circusctl --endpoint ipc://{} stop"
            " {}` stops only this one"
        ),
    ),
    "process/watchdog.py": (
        (
            "the handler has exceeded handler_timeout by {} s while it handles {}; process {} is"
            " ended"
            " with SIGABRT and writes the stacks of its threads to its log; the message is"
            " delivered again"
        ),
    ),
    "runner/connection_loss_causes.py": ("the broker delivers message {}{} of {} again: {}",),
    "runner/concurrent_mode.py": (
        "{} ends during an outage; the broker will deliver its unacknowledged messages again",
    ),
    "runner/outage_pause.py": (
        "{} holds for {} s, then tries again: {}{}",
        "{} continues after {} in {} s",
    ),
    "runner/queues_to_read.py": (
        (
            "{} gives back to the broker the messages that no handler has begun, because {}; they"
            " are delivered again"
        ),
    ),
    "supervisor/arbiter.py": (
        (
            "process {} supervises {} already; apply a changed topology with `feedbus apply`, stop"
            " the process with `feedbus down`, or set another var in the topology"
        ),
    ),
    "supervisor/client.py": (
        "the supervisor, process {}, does not answer; `feedbus down` ends it",
        "{} (process {}) is still busy after {} s, and is killed in {} s",
    ),
    "supervisor/broker_mismatch.py": (
        "the supervisor, process {}, uses broker {}, but for this command {} names broker {}: {}",
        "run the command with the same {} as the supervisor",
        "[broker] url in the file was changed: run `feedbus apply`",
        "no consumer with the folder {} runs: messages wait in {} until `feedbus up`",
    ),
    "supervisor/outdated_processes.py": (
        (
            "the supervisor, process {}, is of another version of feedbus: run `feedbus down`, then"
            " `feedbus up`"
        ),
        "{} {} in the topology, but not applied: {}",
        "code has changed ({}) since {} started: {}",
        "run `feedbus restart` to run the current code",
        "`feedbus up --reload` restarts processes with changed code",
    ),
    "supervisor/watcher_events.py": (
        "process {} is ready after {} s",
        "process {} ended: {}{}; it will be restarted {}",
        "process {} did not end within {} s and was killed{}",
        "the process is not restarted any more, because {}; {}; {}",
    ),
}


@pytest.mark.parametrize(("change", "line"), PROBLEMS, ids=[line for _, line in PROBLEMS])
def test_a_problem_of_a_topology_is_reported_in_these_words(tmp_path, change, line):
    old, new = change
    assert TOPOLOGY.count(old) == 1
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY.replace(old, new))
    with pytest.raises(TopologyError) as raised:
        config.load(path, environ={})
    assert str(raised.value).removeprefix(f"{tmp_path}/") == line


@pytest.mark.parametrize(
    ("module", "message"),
    [(module, message) for module, messages in MESSAGES.items() for message in messages],
)
def test_a_message_to_the_operator_has_these_words(module, message):
    assert message in set(texts_of(FEEDBUS / module))


@cache
def texts_of(module: Path) -> tuple[str, ...]:
    """Return the texts in a module, with {} in the place of each value."""
    return tuple(_texts(ast.parse(module.read_text())))


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )


def test_every_module_of_the_table_exists_and_no_text_has_a_doubled_blank():
    assert all((FEEDBUS / module).exists() for module in MESSAGES)
    assert not [text for texts in MESSAGES.values() for text in texts if re.search(r"\S  \S", text)]
