"""What a handler is: a plain function, the schema of its messages, and how to find it by name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from marshmallow import Schema

from feedbus.annotations import Unfit
from feedbus.errors import Drop, Reject, Retry, UsageError
from feedbus.parameters import Given, Offer, Parameters, check_result, refuse_async_resources
from feedbus.resources import Resources

Function = TypeVar("Function", bound=Callable[..., None])
MARK = "__feedbus_handler__"
EXPECTED = "a plain function that returns None"


class UnfitHandler(Unfit):
    """What is marked as a handler can never work as one."""


class UnexpectedResult(TypeError):  # noqa: N818 -- names what the handler did
    """A handler returned something, which says nothing to feedbus."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler's function, the schema that loads its messages, and whether it takes Records."""

    function: Callable[..., None]
    schema: Schema
    batch: bool

    def caller(
        self, session_type: type | None, resources: Resources
    ) -> Callable[[Any, Given], None]:
        """Return what calls the function with a record or Records, and with what it asks for.

        It takes the record or Records, and what can be given. It raises UnexpectedResult
        where the function returns something else than None.

        Args:
            session_type: the type of the store's session, None where there is none.
            resources: of the process; those that the function asks for are opened with them.

        Raises:
            Unfit: the function asks for what is not there.

        """
        function = self.function
        parameters = self.parameters(session_type)
        resources.need(parameters)
        call = parameters.call_of(function, resources.value_of)

        def checked(argument: Any, given: Given) -> None:
            result = call(argument, given)
            if result is not None:
                raise UnexpectedResult(_complaint(result))

        return checked

    def parameters(self, session_type: type | None) -> Parameters:
        """Return what the function's parameters ask for.

        Raises:
            Unfit: it cannot be called, or something that it asks for is not there.

        """
        function = self.function
        check_result(function)
        offer = Offer.to_handlers(session_type, batch=self.batch)
        parameters = Parameters.of(function, offer, after="the message")
        refuse_async_resources(function, parameters)
        return parameters


def handler(schema: type[Schema], *, batch: bool = False) -> Callable[[Function], Function]:
    """Mark a function as the handler of messages that schema describes.

    Args:
        schema: the marshmallow schema of one record; the function gets what it loads.
        batch: True for a function of Records, False for one of a single record. Further parameters
            are given by their annotations: a Bus, the Message, the session of the store, and what
            resources give.

    Raises:
        UnfitHandler: the schema is no Schema class, or what is marked is no plain function:
            feedbus calls it once for each record or batch, and neither awaits nor iterates what it
            returns. A callable object and a functools.partial are taken as functions are.

    """
    if not (isinstance(schema, type) and issubclass(schema, Schema)):
        expected, advice = "a marshmallow Schema class", "write @handler(OrderSchema)"
        raise UnfitHandler(schema, expected, f"is no schema but {schema!r:.80}", advice)

    def mark(function: Function) -> Function:
        _check_function(function)
        try:
            setattr(function, MARK, Handler(function, schema(), batch))
        except AttributeError as error:
            got, advice = f"is a {type(function).__name__}", "write a function around it"
            raise UnfitHandler(function, EXPECTED, got, advice) from error
        return function

    return mark


def _check_function(function: object) -> None:
    called = getattr(function, "__call__", None)  # noqa: B004 -- of an object, what it calls
    await_inside = "write 'def', and asyncio.run(…) inside where something has to be awaited"
    if isinstance(function, type):
        got, advice = "is a class", "write a function, or mark an instance that has __call__"
    elif called is None:
        got, advice = "is not callable", "write a function"
    elif _any(inspect.iscoroutinefunction, function, called):
        got, advice = "is an async function, which nobody would await", await_inside
    elif _any(inspect.isasyncgenfunction, function, called):
        got, advice = "is an async generator, which nobody would iterate", await_inside
    elif _any(inspect.isgeneratorfunction, function, called):
        got = "is a generator function, which nobody would iterate"
        advice = "publish with bus.publish(…) instead of yield"
    else:
        return
    raise UnfitHandler(function, EXPECTED, got, advice)


def _any(kind: Callable[[Any], bool], *functions: object) -> bool:
    return any(map(kind, functions))


def _complaint(result: object) -> str:
    """Say what a handler returned and what to write; a coroutine is closed, as nobody awaits it."""
    got, advice = repr(result)[:200], "return nothing; raise Reject or Retry for another verdict"
    if isinstance(result, Drop | Reject | Retry):
        advice = f"write 'raise {type(result).__name__}(…)'"
    elif inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
        advice = "nothing of it was run: write a plain function that neither awaits nor yields"
    elif inspect.isawaitable(result) or inspect.isasyncgen(result):
        advice = "nobody awaits it: write a plain function"
    return f"the handler returned {got}: expected None; {advice}"


def resolve(dotted: str, root: Path) -> Handler:
    """Import "package.module:function" with root on the path; UsageError says what is wrong."""
    found = resolve_object(dotted, root)
    marked = getattr(found, MARK, None)
    if not isinstance(marked, Handler):
        msg = f"{dotted} is not a handler: expected a function under @feedbus.handler(Schema)"
        raise UsageError(msg)
    return marked


def resolve_object(dotted: str, root: Path) -> Any:
    """Import whatever "package.module:name" names, with root on the path."""
    module_name, separator, name = dotted.partition(":")
    if not (module_name and separator and name):
        msg = f"expected 'package.module:name', got '{dotted}'"
        raise UsageError(msg)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(module_name)
    except Unfit:
        raise
    except Exception as error:
        msg = f"cannot import {module_name}: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    if not hasattr(module, name):
        msg = f"{module_name} has no '{name}'"
        raise UsageError(msg)
    return getattr(module, name)
