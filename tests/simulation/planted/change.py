"""What a planted fault replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from feedbus.dispatch import failed_record_sender

Change = tuple[Any, str, Any]  # the owner, the name of its attribute, and the value instead


def sent_in_another_order(order: Callable[[Iterable[Any]], list[Any]]) -> list[Change]:
    """Send retries and dead letters in the order that a function returns."""
    original = failed_record_sender.FailedRecordSender.send

    def send(self: Any, *arguments: Any, **options: Any) -> None:
        sender = self._sender
        self._sender = SimpleNamespace(send=lambda messages: sender.send(order(messages)))
        try:
            original(self, *arguments, **options)
        finally:
            self._sender = sender

    return [(failed_record_sender.FailedRecordSender, "send", send)]
