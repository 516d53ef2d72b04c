"""Dead handlers, which are called before a record becomes a dead letter, and their parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from feedbus.handling.annotations import Unfit
from feedbus.handling.handlers import MARK, Handler, is_async
from feedbus.handling.message_types import RecordLoader, UnfitMessageType, loader_of, row_type
from feedbus.handling.parameters import (
    ASKED_FOR,
    DEAD_LETTER,
    UNANNOTATED,
    Offer,
    Parameters,
    check_result,
    refuse_async_resources,
)

EXPECTED = "a function that takes a DeadLetter or a record, and returns None"
# Functions that cannot be dead handlers, with the text for the error.
OTHERS = {
    inspect.isasyncgenfunction: "is an async generator",
    inspect.isgeneratorfunction: "is a generator function",
}


@dataclass(frozen=True, slots=True)
class DeadLetterFunction:
    """The function that `dead_handler` of a queue names, and what its parameters request.

    Attributes:
        function: the function that is called.
        parameters: the parameters of the function after the first one.
        record_loader: loads the record for the function; None if the function gets the DeadLetter.
    """

    function: Callable[..., object]
    parameters: Parameters
    record_loader: RecordLoader | None

    @property
    def is_async(self) -> bool:
        """Whether the function is awaited in the event loop of the process."""
        return is_async(self.function)

    @classmethod
    def of(cls, function: Any, session_type: type | None) -> Self:
        """Return the DeadLetterFunction of a function.

        Args:
            function: the object that `dead_handler` names.
            session_type: the type of the store's session; None if there is no store.

        Raises:
            Unfit: the object cannot be a dead handler. For example, a parameter requests an unknown
                value, or the first parameter has a type that is not a message type.

        """
        called = getattr(function, "__call__", None)  # noqa: B004 -- the method that a call of the object runs
        if called is None or isinstance(function, type):
            raise Unfit(function, EXPECTED, "is not a function")
        for is_other, got in OTHERS.items():
            if is_other(function) or is_other(called):
                raise Unfit(function, EXPECTED, got)
        check_result(function)
        offer = Offer.to_dead_handlers(session_type)
        parameters = Parameters.of(function, offer, first="the dead letter")
        if not is_async(function):
            refuse_async_resources(function, parameters)
        return cls(function, parameters, _record_loader(function))


def _record_loader(function: Any) -> RecordLoader | None:
    """Return the loader for the first parameter; None if this parameter gets the DeadLetter.

    A first parameter without a type gets the DeadLetter, too.

    Raises:
        Unfit: the first parameter cannot get a record.

    """
    marked = getattr(function, MARK, None)
    if isinstance(marked, Handler):  # the function also has the decorator @handler
        if marked.batch:
            raise Unfit(function, EXPECTED, "takes Records")
        if marked.declared is not None:
            return marked.record_loader()
    declared = row_type(function, batch=False)
    if declared in UNANNOTATED or getattr(declared, ASKED_FOR, None) == DEAD_LETTER:
        return None
    try:
        return loader_of(declared)
    except UnfitMessageType as error:
        raise Unfit(function, EXPECTED, f"takes {error.got}", error.advice) from error
