"""What a planted fault replaces."""

from __future__ import annotations

import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from feedbus.dispatch import failed_record_sender

Change = tuple[Any, str, Any]  # the owner, the name of its attribute, and the value instead


def edited(owner: Any, name: str, old: str, new: str = "") -> list[Change]:
    """Replace a part of the source text of a function; it must be there exactly once."""
    function = inspect.unwrap(owner.__dict__[name])  # of a class method, too
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{name} has changed: the fault must be planted in another way"
    text = source.replace(old, new)
    file = f"<{owner.__name__}.{name} with a planted fault>"
    # inspect and tracebacks find the text there.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    found: dict[str, Any] = {}
    exec(compile(text, file, "exec"), function.__globals__, found)
    return [(owner, name, found[name])]


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
