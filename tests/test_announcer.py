"""What the announcer of a host logs if it cannot reach the other hosts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from feedbus import config
from feedbus.hosts import announcer
from feedbus.hosts.announcer import Announcer
from feedbus.logs import Event
from servers.ports import free_port
from tests.projects import wait_until
from tests.topologies import FEED, START, write


def test_a_host_that_cannot_announce_itself_logs_once_what_happens_and_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer, "RETRY_SECONDS", 0.01)
    broker_table = f'[broker]\nurl = "amqp://127.0.0.1:{free_port()}/"\n'
    path = write(tmp_path, START + broker_table + FEED)
    topology = config.load(path, environ={"FEEDBUS_VAR": str(tmp_path)})
    with Announcer(topology):
        wait_until(lambda: caplog.records)
        time.sleep(0.2)  # for more attempts
    (record,) = caplog.records
    event = record.msg
    assert isinstance(event, Event)
    assert event.name == "hosts_unknown"
    assert "tries again every second" in event.message
    assert "No message is lost" in event.message
    assert event.message.endswith(f"Correct the cause: {event.fields['error']}")
    assert event.fields["error"].startswith("broker amqp://127.0.0.1:")
