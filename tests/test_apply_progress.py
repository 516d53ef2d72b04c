"""The lines of `feedbus apply` about the messages that are left in old queues."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from feedbus.cli import apply


def test_without_a_terminal_the_messages_that_are_left_are_printed_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(apply, "time", SimpleNamespace(monotonic=lambda: clock.now))
    progress = apply.Progress()
    for left in range(24, -1, -1):
        progress.show(left)
        clock.now += 1
    assert capsys.readouterr().out.splitlines() == [
        f"draining: {left} left"
        for left in ("24 messages", "13 messages", "2 messages", "0 messages")
    ]


def test_a_number_that_does_not_change_is_reported_after_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(apply, "time", SimpleNamespace(monotonic=lambda: clock.now))
    progress = apply.Progress()
    for _ in range(70):
        progress.show(1)
        clock.now += 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == "draining: 1 message left"
    assert last == (
        "draining: 1 message left; the number has not changed for 60 s; `feedbus plan` lists the"
        " queues, and `feedbus status` the consumers"
    )
