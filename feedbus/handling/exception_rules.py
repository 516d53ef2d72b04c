"""The rules of a queue's `retry`: after which exceptions of a handler a record is tried again."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from feedbus.errors import Drop, Outage, Reject, Retry, UsageError
from feedbus.handling.imported_objects import resolve_object

# Rules cannot name these exceptions, because what feedbus does after them cannot be changed.
OF_FIXED_MEANING = (Drop, Outage, Reject, Retry)


@dataclass(frozen=True, slots=True)
class ExceptionRules:
    """After which exceptions a record is tried again, and after which it becomes a dead letter.

    If an exception is an instance of several of these classes, the class that is nearest to the
    exception's own class decides.

    Attributes:
        retry_on: classes of exceptions after which the record is tried again. If retry_on is not
            empty, the record becomes a dead letter immediately after an exception of any other
            class. If retry_on is empty, the record is tried again after an exception of any class
            that is not in reject_on.
        reject_on: classes of exceptions after which the record becomes a dead letter immediately.

    """

    retry_on: frozenset[type[BaseException]] = frozenset()
    reject_on: frozenset[type[BaseException]] = frozenset()

    @classmethod
    def of(cls, retry_on: Iterable[str], reject_on: Iterable[str], root: Path) -> Self:
        """Return the rules of a queue.

        Args:
            retry_on: dotted names of exceptions, as in topology.toml.
            reject_on: dotted names of exceptions, as in topology.toml.
            root: the folder of the topology.

        Raises:
            UsageError: a class cannot be imported, is no exception class, or is an exception of
                feedbus that has a fixed meaning.

        """
        return cls(
            frozenset(resolve_exception(name, root) for name in retry_on),
            frozenset(resolve_exception(name, root) for name in reject_on),
        )

    def rejects(self, error: BaseException) -> bool:
        """Whether a record becomes a dead letter after this exception, without another attempt."""
        for kind in type(error).__mro__:
            if kind in self.reject_on:
                return True
            if kind in self.retry_on:
                return False
        return bool(self.retry_on)


def resolve_exception(name: str, root: Path) -> type[BaseException]:
    """Return the exception class of a dotted name, such as "ValueError" or "httpx.TransportError".

    Args:
        name: the name of a built-in exception, "module.Name" or "module:Name".
        root: the folder of the topology, from which modules are imported.

    Raises:
        UsageError: the class cannot be imported, is no exception class, or is an exception of
            feedbus with a fixed meaning: Drop, Outage, Reject or Retry.
    """
    module, _, last = name.replace(":", ".").rpartition(".")
    if module:
        found = resolve_object(f"{module}:{last}", root)
    else:
        found = getattr(builtins, last, None)
        if found is None:
            msg = f"there is no built-in exception '{name}'; write its module before the name"
            raise UsageError(msg)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        msg = f"{name} is not an exception class but {kind}"
        raise UsageError(msg)
    if issubclass(found, OF_FIXED_MEANING):
        msg = f"{name} is an exception of feedbus, which has a fixed meaning; remove it here"
        raise UsageError(msg)
    return found
