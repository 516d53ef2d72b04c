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
