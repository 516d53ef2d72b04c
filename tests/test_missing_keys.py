"""A hash exchange needs a routing key: without one, every message would go to the same shard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus import config, connect, connect_async
from feedbus.bus.batch_bus import BatchBus
from feedbus.bus.collecting_bus import CollectingBus
from feedbus.bus.record_encoding import Encoder
from feedbus.cli import main
from feedbus.errors import UsageError
from feedbus.records import Records
from feedbus.store.store_of_topology import open_prepared
from feedbus.testing import RecordingBus, TestSystem
from feedbus.topology import Topology
from tests.system_fixtures import closing_store

TOPOLOGY = """\
name = "shop"
[store]
url = "sqlite:///store.db"
[exchanges]
orders = { type = "x-consistent-hash" }
notes = { type = "fanout" }
[queues.reserve]
exchange = "orders"
shards = 2
handler = "keyless_app:handle"
[queues.note]
exchange = "notes"
handler = "keyless_app:handle"
"""
APP = "from feedbus import handler\n@handler\ndef handle(order: dict) -> None: ...\n"
REFUSED = "cannot publish to exchange 'orders' without a key, because the key selects the shard"


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    (tmp_path / "keyless_app.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    return config.load(tmp_path / "topology.toml")


def with_program(topology: Topology, exchange: str, **key: str) -> None:
    with connect(topology) as bus:
        bus.publish(exchange, {"n": 1}, **key)


def with_event_loop(topology: Topology, exchange: str, **key: str) -> None:
    async def publish() -> None:
        async with await connect_async(topology) as bus:
            await bus.publish(exchange, {"n": 1}, **key)

    asyncio.run(publish())


def with_options(topology: Topology, exchange: str, **key: str) -> None:
    with connect(topology) as bus:
        bus.publish(exchange, {"n": 1}, priority=1, **key)


def in_handler(topology: Topology, exchange: str, **key: str) -> None:
    shards = Encoder(topology).shard_count
    bus = CollectingBus(Records.of([{"n": 1}]), lambda *_: None, shards)
    bus.publish(exchange, {"n": 1}, **key)


def in_batch(topology: Topology, exchange: str, **key: str) -> None:
    records = Records.of([{"n": 1}])
    BatchBus(records, lambda *_: None, Encoder(topology).shard_count)
    records.publish(exchange, columns={"n": "n"}, **key)


def columns_in_batch(topology: Topology, exchange: str, **key: str) -> None:
    records = Records.of([{"n": 1}])
    BatchBus(records, lambda *_: None, Encoder(topology).shard_count)
    records.publish_columns(exchange, {"n": [1, 2]}, **key)


def recorded(topology: Topology, exchange: str, **key: str) -> None:
    RecordingBus(topology).publish(exchange, {"n": 1}, **key)


def recorded_in_batch(topology: Topology, exchange: str, **key: str) -> None:
    Records.of([{"n": 1}], bus=RecordingBus(topology)).publish(exchange, **key)


def in_test(topology: Topology, exchange: str, **key: str) -> None:
    with TestSystem(topology) as system:
        system.publish(exchange, {"n": 1}, **key)


def in_outbox(topology: Topology, exchange: str, **key: str) -> None:
    with closing_store():
        store = open_prepared(topology)
        store.outbox.put(exchange, {"n": 1}, **key)


@pytest.mark.parametrize(
    "publish",
    [
        with_program,
        with_event_loop,
        with_options,
        in_handler,
        in_batch,
        columns_in_batch,
        recorded,
        recorded_in_batch,
        in_test,
        in_outbox,
    ],
)
def test_a_hash_exchange_needs_a_key_and_takes_an_empty_one(
    topology: Topology, publish: Callable[..., None]
) -> None:
    with pytest.raises(UsageError, match=REFUSED):
        publish(topology, "orders")
    publish(topology, "orders", key="")
    publish(topology, "orders", key="chair")
    publish(topology, "notes")


def test_the_outbox_refuses_an_unknown_exchange(topology: Topology) -> None:
    with pytest.raises(UsageError, match="no exchange named 'order'; expected one of orders"):
        in_outbox(topology, "order", key="chair")


def test_feedbus_publish_lists_the_fields_if_a_message_lacks_the_one_of_key_field(
    topology: Topology,
) -> None:
    def publish(text: str) -> str:
        words = ["publish", "orders", "--json", text, "--key-field", "produkt"]
        done = CliRunner().invoke(main, ["--topology", str(topology.path), *words])
        assert done.exit_code != 0
        return done.output

    lacks = "--json: the message has no field 'produkt' for --key-field: "
    found = publish('{"id": 1, "product": "chair"}')
    assert f"{lacks}expected one of id, product; did you mean 'product'?" in found
    assert f"{lacks}it has no fields" in publish("{}")
    many = publish(json.dumps({f"field {n}": n for n in range(100)}))
    assert "field 19 and 80 more" in many


def test_feedbus_publish_needs_a_key_for_a_hash_exchange(topology: Topology) -> None:
    def publish(exchange: str, *words: str) -> tuple[int, str]:
        command = ["--topology", str(topology.path), "publish", exchange, "--json", '{"n": 1}']
        done = CliRunner().invoke(main, [*command, *words])
        return done.exit_code, done.stdout or done.stderr

    code, output = publish("orders")
    assert code != 0
    assert "expected --key or --key-field, got neither: the key selects the shard" in output
    for words in (("--key", ""), ("--key", "chair"), ("--key-field", "n")):
        assert publish("orders", *words) == (0, "1 message published to orders\n")
    assert publish("notes") == (0, "1 message published to notes\n")
