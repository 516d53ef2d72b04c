"""Several records at once, as tasks and in threads: order by key, kills, ends and outages."""

from __future__ import annotations

import signal
from collections import defaultdict
from uuid import uuid4

import pytest

from feedbus import broker, config
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.errors import TopologyError
from feedbus.metrics import WaitingCounts, all_waiting
from feedbus.process.watchdog import Note
from feedbus.testing import TestSystem
from servers import versions
from tests.handlers_to_run import topology_of
from tests.projects import PATIENCE_SECONDS, Project, wait_until

TOPOLOGY = """
name = "{name}"
[broker]
{broker}
[exchanges]
work = {{ type = "topic", pack = {pack} }}
done = {{ type = "topic" }}
[queues.work]
exchange = "work"
routing_keys = ["#"]
handler = "at_once:work"
concurrency = 8
prefetch = 40
retry = {{ delays = {delays}, then = "dead-letter" }}
{options}
[queues.done]
exchange = "done"
routing_keys = ["#"]
handler = "at_once:done"
"""
MODULE = """
import asyncio, os, threading, time, feedbus
from feedbus import Bus, Message, Outage, handler

FOLDER = os.path.dirname(__file__)
running, lock = set(), threading.Lock()

def note(text):
    with open(FOLDER + "/seen.log", "a") as log:
        log.write(text + chr(10))

def begin(key):
    with lock:
        if key in running:
            note(f"together-{{key}}")
        running.add(key)

def end(key, n):
    with lock:
        running.discard(key)
        note(f"{{key}}-{{n}}-{{len(running)}}")

{kind} work(record: dict, message: Message, bus: Bus) -> None:
    n, key = record["n"], message.routing_key
{body}

@handler
def done(record: dict) -> None:
    pass
"""
EMBEDDED = 'url = "sqlite:///var/broker.db"'
ASYNC = ("@handler\nasync def", "await asyncio.sleep")
THREADS = ("@handler\ndef", "time.sleep")
WORK = """\
begin(key)
{sleep}(0.003 * (1 + n % 3))
end(key, n)
bus.publish("done", {{"n": n}}, key=key)
"""


def project_at(folder, broker, kind, body, *, pack=0, options="order_by = true", delays='["50ms"]'):
    form, sleep = kind
    indented = "\n".join(f"    {line}" for line in body.format(sleep=sleep).splitlines())
    (folder / "at_once.py").write_text(MODULE.format(kind=form, body=indented))
    name = f"at_once_{uuid4().hex[:8]}"  # on a server that others use
    text = TOPOLOGY.format(name=name, broker=broker, pack=pack, options=options, delays=delays)
    (folder / "topology.toml").write_text(text)
    project = Project(folder)
    project.feedbus("apply")
    return project


def publish(project, numbers, keys=7):
    bus = LiveBus(config.load(project.topology))
    bus.publish_many("work", [({"n": n}, f"k{n % keys}") for n in numbers])
    bus.close()


def seen(project):
    """Return the numbers of each key in the order in which they were handled."""
    found = defaultdict(list)
    for line in project.seen():
        key, n, *_ = line.split("-")
        found[key].append(int(n) if key != "together" else n)
    return found


@pytest.fixture(params=["sqlite", *versions.chosen()])
def broker_table(request):
    if request.param == "sqlite":
        return EMBEDDED
    node = request.getfixturevalue("rabbitmq_nodes")(request.param)
    return f'url = "{node.url}"\nmanagement = "{node.management_url}"'


@pytest.mark.parametrize(
    ("kind", "pack"), [(ASYNC, 0), (THREADS, 25)], ids=["tasks", "packs in threads"]
)
def test_records_of_one_key_are_handled_in_order_others_at_once_and_none_lost_by_a_kill(
    tmp_path, broker_table, kind, pack
):
    project = project_at(tmp_path, broker_table, kind, WORK, pack=pack)
    publish(project, range(300))
    process = project.start("run", "work")
    wait_until(lambda: len(project.seen()) > 60)
    process.kill()
    process.wait()
    process.stdout.close()
    project.feedbus("run", "work", "--idle-timeout", "1s")
    found = seen(project)
    assert "together" not in found
    assert sorted({n for numbers in found.values() for n in numbers}) == list(range(300))
    for numbers in found.values():  # in order, but for what the kill repeats
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first)
    assert max(int(line.rpartition("-")[2]) for line in project.seen()) >= 3  # at once
    assert project.dead() == []


def test_sigterm_lets_what_has_begun_finish_and_gives_the_rest_back(tmp_path):
    body = 'note(f"begin-{{n}}")\n{sleep}(0.5)\nnote(f"end-{{n}}")'
    project = project_at(tmp_path, EMBEDDED, ASYNC, body)
    publish(project, range(30), keys=100)
    process = project.start("run", "work")
    wait_until(lambda: "begin-7" in project.seen())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    process.stdout.close()
    begun = {line[6:] for line in project.seen() if line.startswith("begin")}
    ended = {line[4:] for line in project.seen() if line.startswith("end")}
    assert begun == ended == {str(n) for n in range(8)}
    project.feedbus("run", "work", "--idle-timeout", "1s")
    assert project.seen().count("end-0") == 1
    assert {line for line in project.seen() if line.startswith("end")} == {
        f"end-{n}" for n in range(30)
    }


def test_an_async_handler_is_cancelled_at_its_timeout_and_the_others_go_on(tmp_path):
    body = 'await asyncio.sleep(60 if n == 1 else 0)\nnote(f"end-{{n}}")'
    options = 'order_by = true\nhandler_timeout = "300ms"'
    project = project_at(tmp_path, EMBEDDED, ASYNC, body, options=options)
    publish(project, range(10), keys=10)
    project.feedbus("run", "work", "--idle-timeout", "2s")
    (dead,) = project.dead()
    assert dead["reason"].endswith("cancelled, as it took longer than handler_timeout (0.3 s)")
    assert dead["attempts"] == 2
    assert set(project.seen()) == {f"end-{n}" for n in range(10) if n != 1}


def test_an_outage_counts_no_attempt_and_keeps_the_order(tmp_path):
    body = """\
begin(key)
{sleep}(0.01)
away = FOLDER + f"/away-{{n}}"
if n % 10 == 0 and not os.path.exists(away):
    open(away, "w").close()
    running.discard(key)
    raise Outage("the mail server is unavailable")
end(key, n)
"""
    project = project_at(tmp_path, EMBEDDED, THREADS, body)
    publish(project, range(40))
    project.feedbus("run", "work", "--idle-timeout", "2s")
    found = seen(project)
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(40))
    assert all(numbers == sorted(numbers) for numbers in found.values())
    assert project.dead() == []


def test_what_ends_while_the_consumer_holds_is_not_taken_for_a_handler_that_hangs(tmp_path):
    body = 'note(f"begin-{{n}}")\nraise feedbus.Reject("unwanted")'
    options = 'order_by = true\nhandler_timeout = "300ms"'
    project = project_at(tmp_path, EMBEDDED, THREADS, body, options=options)
    topology = config.load(project.topology)
    name = Names(topology).dead(topology.queues["work"])
    with broker.connect(topology) as connection:
        connection.default_channel.queue_delete(name)  # so that no failure can be put aside
    publish(project, range(3))
    process = project.start("run", "work")
    wait_until(lambda: len(project.seen()) == 3)

    def is_in_no_handler():
        (path,) = (tmp_path / "var/run").glob("work*.handler")
        with path.open("rb") as file:
            note = Note.read(file.fileno())
        return note is None or note.until is None

    wait_until(is_in_no_handler)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output
    assert "cannot publish retries and dead letters" in output
    assert "hangs" not in output


def test_a_record_without_the_field_that_orders_is_a_dead_letter():
    with TestSystem(topology_of("tests.handlers_to_run:undone", order_by="n")) as system:
        system.publish("work", {"n": 1})
        system.publish("work", {"m": 1})
        system.publish("work", {"n": None})
        system.bus.publish_many("work", [({"n": n}, "") for n in (2, None, [3], 4)])
        system.run()
        expected = "order_by needs this field: expected a text, a number, true or false, got"
        assert [each.errors for each in system.dead_letters("work")] == [
            {"n": [f"{expected} {got}"]}
            for got in (
                "a record without it",
                "null",
                "null",
                "list",
            )
        ]
        assert [each.payload["n"] for each in system.handled("work")] == [1, 2, 4]


PROBLEMS = {
    "prefetch = 7": "prefetch: expected at least concurrency (8)",
    "batch = { size = 5 }": "concurrency: cannot be combined with batch.size",
    "order_by = 3": "order_by: expected the name of a field, true for the routing key, or false",
    'order_by = "n"\nsingle_active_consumer = false': "single_active_consumer: cannot be false",
}


@pytest.mark.parametrize("options", PROBLEMS)
def test_options_that_cannot_go_together_are_located(tmp_path, options):
    text = TOPOLOGY.format(
        name="small", broker=EMBEDDED, pack=0, options=options, delays='["50ms"]'
    )
    if "prefetch" in options:
        text = text.replace("prefetch = 40\n", "")
    (tmp_path / "topology.toml").write_text(text)
    with pytest.raises(TopologyError, match=r"\d+:\d+: \[queues.work\] ") as raised:
        config.load(tmp_path / "topology.toml")
    assert PROBLEMS[options] in str(raised.value)


def test_concurrency_and_order_have_their_defaults(tmp_path):
    text = TOPOLOGY.format(
        name="small", broker=EMBEDDED, pack=0, options='order_by = "n"', delays='["50ms"]'
    )
    (tmp_path / "topology.toml").write_text(text.replace("prefetch = 40\n", ""))
    topology = config.load(tmp_path / "topology.toml")
    work, done = topology.queues["work"], topology.queues["done"]
    assert (work.prefetch, work.order_by, work.single_active_consumer) == (16, "n", True)
    assert (done.prefetch, done.concurrency, done.order_by) == (10, 1, False)
    assert not done.single_active_consumer


def test_a_consumer_that_is_started_again_counts_its_waiting_records(tmp_path):
    fails = "note('called')\nraise OSError"
    project = project_at(tmp_path, EMBEDDED, ASYNC, fails, delays='["1h"]')
    publish(project, [1, 2, 3], keys=1)
    expected = {"work": WaitingCounts(waiting=2, retrying=1)}
    for _ in range(2):
        process = project.start("run", "work")
        try:
            wait_until(lambda: all_waiting(tmp_path / "var/run") == expected)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
    assert project.seen() == ["called"]
