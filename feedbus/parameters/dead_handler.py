"""What a function that is called with dead letters may ask for."""

from __future__ import annotations

import inspect
from typing import Any

from feedbus.annotations import Unfit
from feedbus.parameters.asked import Offer, Parameters, check_result, refuse_async_resources

EXPECTED = "a function of a DeadLetter that returns None"
OTHERS = {
    inspect.iscoroutinefunction: "is an async function",
    inspect.isasyncgenfunction: "is an async generator",
    inspect.isgeneratorfunction: "is a generator function",
}


def dead_handler_parameters(function: Any, session_type: type | None) -> Parameters:
    """Return what a dead handler asks for after the dead letter.

    Raises:
        Unfit: it cannot be called, or something that it asks for is not there.

    """
    called = getattr(function, "__call__", None)  # noqa: B004 -- of an object, what it calls
    if called is None or isinstance(function, type):
        raise Unfit(function, EXPECTED, "is no function")
    for is_other, got in OTHERS.items():
        if is_other(function) or is_other(called):
            raise Unfit(function, EXPECTED, got)
    check_result(function)
    parameters = Parameters.of(function, Offer.to_handlers(session_type), after="the dead letter")
    refuse_async_resources(function, parameters)
    return parameters
