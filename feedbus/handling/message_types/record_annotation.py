"""The type of a record according to the annotation of a handler's first parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_origin

from feedbus.handling.annotations import Unfit, Unresolved, annotation
from feedbus.records import Records

UNANNOTATED = (inspect.Parameter.empty, Any, object)


def row_type(function: Callable[..., object], *, batch: bool) -> Any:
    """Return the type of one record, by the annotation of a handler's first parameter.

    For Records[Order], the result is Order. Without an annotation, the result is dict for a batch
    handler, and inspect.Parameter.empty for a handler of one record. Both mean that the records are
    dicts, which are not validated.

    Args:
        function: a handler.
        batch: whether the handler takes Records.

    Raises:
        Unfit: the annotation cannot be evaluated. Or the annotation is Records, but the handler has
            no batch=True. Or the handler has batch=True, but the annotation is another type.

    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # Python may not know the parameters of a function in C
        parameters = []
    if not parameters:
        return dict
    try:
        found = annotation(function, parameters[0].name, parameters[0].annotation)
    except Unresolved as error:
        raise Unfit(function, "a type", str(error)) from error
    takes_records = (get_origin(found) or found) is Records
    if takes_records and not batch:
        got, advice = "takes Records, but is called with one record", "write @handler(batch=True)"
        raise Unfit(function, "the type of one record", got, advice)
    if not batch:
        return found
    if not takes_records and found not in UNANNOTATED:
        got = f"with batch=True takes {getattr(found, '__name__', found)}"
        advice = "write Records[Order], where Order is the type of one record"
        raise Unfit(function, "Records[…]", got, advice)
    return (*get_args(found), dict)[0]
