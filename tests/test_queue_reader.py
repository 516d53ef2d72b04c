"""The reader of a queue that is ending: what stays in the queue, and when it is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.generations.consumer_queues import ReadableQueue
from feedbus.generations.probes import Probes, fence_message
from feedbus.runner.queue_reader import QueueReader
from feedbus.store.peewee import close_bound
from tests.projects import PATIENCE_SECONDS
from tests.small_topologies import queue
from tests.systems import System


@contextmanager
def reading(folder: Path) -> Iterator[tuple[Any, QueueReader, list[Any]]]:
    """Yield a connection, the reader of a queue with a fence, and the delivered messages."""
    system = System.at(folder, queue())
    close_bound()
    name = f"{system.topology.name}.work"
    delivered: list[Any] = []
    with broker.connect(system.topology) as connection:
        publish_all(connection.connection, [fence_message(name, "the first")])
        reader = QueueReader.begin(
            connection.connection,
            ReadableQueue(name),
            tag="reader",
            prefetch=10,
            pause_seconds=0.0,
            on_message=delivered.append,
            on_cancel=lambda _: None,
        )
        assert reader is not None
        yield connection.connection, reader, delivered


def pass_next(raw: Any, reader: QueueReader, delivered: list[Any]) -> None:
    """Receive a fence and process it."""
    while not delivered:
        raw.drain_events(timeout=PATIENCE_SECONDS)
    message = delivered.pop(0)
    reader.accept_fence(message.delivery_tag, message.properties.get("message_id", ""))


def test_a_reader_that_is_lost_before_it_has_put_the_next_probe_leaves_a_fence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: Probes) -> None:
        raise ConnectionResetError

    with reading(tmp_path) as (raw, reader, delivered):
        pass_next(raw, reader, delivered)
        monkeypatch.setattr(Probes, "put_probe", lose)
        with pytest.raises(ConnectionResetError):
            pass_next(raw, reader, delivered)
        reader.close()
        assert broker.count_messages(raw, reader.queue) == 1


def test_a_queue_whose_deliveries_wait_for_the_handler_is_not_deleted(tmp_path: Path) -> None:
    with reading(tmp_path) as (raw, reader, delivered):
        while not reader.may_be_empty:
            pass_next(raw, reader, delivered)
        assert not reader.delete_if_empty(lambda: True)
        assert broker.queue_exists(raw, reader.queue)
        while not reader.may_be_empty:
            pass_next(raw, reader, delivered)
        assert reader.delete_if_empty(lambda: False)
        assert not broker.queue_exists(raw, reader.queue)
