"""TestSystem and the real runner on a broker file decide on the same verdicts."""

from __future__ import annotations

import itertools
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedbus import config
from feedbus.bus import LiveBus
from feedbus.dead_letters import letters
from feedbus.generations.topology_setup import set_up
from feedbus.handling.routes import HandlerRoutes
from feedbus.metrics import Metrics
from feedbus.runner import CrashGuard, Limits, Runner
from feedbus.store import open_store
from feedbus.testing import TestSystem

TOPOLOGY = """
name = "verdicts"
[defaults.queue]
retry = {{ delays = ["10ms", "30ms"], then = "dead-letter" }}
[exchanges]
work = {{ type = "direct" }}
done = {{ type = "x-consistent-hash", pack = 3 }}
[queues.single]
exchange     = "work"
routing_keys = ["single"]
handler      = "{module}:single"
[queues.batch]
exchange     = "work"
routing_keys = ["batch"]
handler      = "{module}:batch"
batch        = {{ size = 4 }}
[queues.dropping]
exchange     = "work"
routing_keys = ["dropping"]
handler      = "{module}:single"
retry        = {{ delays = ["10ms"], then = "drop" }}
[queues.sink]
exchange = "done"
shards   = 2
handler  = "{module}:sink"
batch    = {{ size = 5 }}
"""

HANDLERS = """
from collections import Counter
from marshmallow import Schema, fields
from feedbus import Drop, Reject, Retry, handler

class Scripted(Schema):
    n = fields.Int(strict=True, required=True)
    script = fields.List(fields.Str(), required=True)

calls = Counter()
arrived = []

def outcome(message):
    step = calls[message["n"]]
    calls[message["n"]] += 1
    return message["script"][step] if step < len(message["script"]) else "ok"

def perform(message, publish_many, said):
    if said == "reject":
        raise Reject(f"no {message['n']}")
    if said == "drop":
        raise Drop("moot")
    if said == "retry":
        raise Retry("later")
    if said == "soon":
        raise Retry("soon", after_seconds=0.02)
    if said == "raise":
        raise RuntimeError(f"broken {message['n']}")
    publish_many("done", [({"n": message["n"], "script": []}, str(message["n"]))])

@handler(Scripted)
def single(message, bus):
    perform(message, bus.publish_many, outcome(message))

@handler(Scripted, batch=True)
def batch(records, bus):
    # By what the record says, not by the call: batches differ in their composition.
    for each in records.singles():
        message = each.first
        said = message["script"][0] if message["script"] else "ok"
        if said == "reject":
            each.reject(f"no {message['n']}")
        elif said == "drop":
            each.drop("moot")
        elif said == "retry":
            each.retry("later")
        else:
            perform(message, each.publish_many, said)

@handler(Scripted, batch=True)
def sink(records, bus):
    arrived.extend(message["n"] for message in records)
"""

SAYINGS = ["ok", "reject", "drop", "retry", "soon", "raise"]
messages = st.lists(
    st.tuples(
        st.sampled_from(["single", "batch", "dropping"]),
        st.lists(st.sampled_from(SAYINGS), max_size=4),
        st.sampled_from([True, True, True, False]),  # whether the record is valid
    ),
    min_size=10,
    max_size=30,
)
numbers = itertools.count()


def payload(number, script, valid):
    return {"n": number if valid else str(number), "script": script}


def seen(found):
    """Return the results that do not depend on the batches, by queue and message."""
    return sorted((each.queue, each.message_id, each.reason, each.attempts) for each in found)


def outcome_in_memory(topology, module, scripts):
    with TestSystem(topology) as system:
        for number, (key, script, valid) in enumerate(scripts):
            identity = f"message {number}"
            system.publish("work", payload(number, script, valid), key=key, message_id=identity)
        system.run()
        found = [each for queue in topology.queues for each in system.dead_letters(queue)]
        return seen(found), sorted(module.arrived), dict(module.calls)


def outcome_of_runners(topology, module, scripts):
    set_up(topology)
    with LiveBus(topology) as bus:
        for number, (key, script, valid) in enumerate(scripts):
            identity = f"message {number}"
            bus.publish("work", payload(number, script, valid), key=key, message_id=identity)
    for consumer in topology.consumers.values():
        handler_file = topology.var / "run" / f"{consumer.name}.handler"
        with CrashGuard(handler_file) as crash_guard, closing(open_store(topology)) as store:
            Runner(
                topology,
                consumer,
                HandlerRoutes.of(consumer.queue, topology.root),
                limits=Limits(idle_timeout_seconds=0.3),
                metrics=Metrics.none(),
                crash_guard=crash_guard,
                store=store,
            ).run()
    with letters.open_channel(topology) as channel:
        found = [
            letter
            for queue in topology.queues.values()
            for _, letter in letters.letters(channel, topology, queue)
        ]
    return seen(found), sorted(module.arrived), dict(module.calls)


@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(messages)
def test_a_test_system_and_real_runners_come_to_the_same_verdicts(scripts):
    with tempfile.TemporaryDirectory() as folder:
        name = f"verdicts_of_test_{next(numbers)}"
        (Path(folder) / f"{name}.py").write_text(HANDLERS)
        (Path(folder) / "topology.toml").write_text(TOPOLOGY.format(module=name))
        topology = config.load(Path(folder) / "topology.toml", import_handlers=True)
        module = sys.modules[name]
        in_memory = outcome_in_memory(topology, module, scripts)
        module.calls.clear()
        module.arrived.clear()
        assert outcome_of_runners(topology, module, scripts) == in_memory
        sys.path.remove(folder)
