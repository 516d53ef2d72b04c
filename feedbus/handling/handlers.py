"""Handlers: functions, the types of their messages, and their import by a dotted name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, overload

from feedbus.errors import Drop, Reject, Retry, UnexpectedResult, UsageError
from feedbus.handling.annotations import Unfit, file_and_line, name_of
from feedbus.handling.awaited_bus_calls import refuse_awaited_bus
from feedbus.handling.imported_objects import resolve_object
from feedbus.handling.message_types import RecordLoader, UnfitMessageType, loader_of, row_type
from feedbus.handling.parameters import (
    Call,
    Given,
    Offer,
    Parameters,
    check_result,
    refuse_async_resources,
)
from feedbus.handling.resources import Resources
from feedbus.wrong_argument import refuse

Function = TypeVar("Function", bound=Callable[..., Coroutine[Any, Any, None] | None])
MARK = "__feedbus_handler__"
EXPECTED = "a function that returns None"
NOT_IN_CODE = "queues and their options, such as retry, are in topology.toml"


class UnfitHandler(Unfit):
    """An object that is marked as a handler, but cannot be one."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that is marked as a handler, and what its decorator declares.

    Attributes:
        function: the function that is called.
        declared: the type that the decorator gives for one record; None if the decorator gives no
            type. Then the annotation of the function's first parameter declares the type.
        batch: whether the function takes Records.
    """

    function: Callable[..., Coroutine[Any, Any, None] | None]
    declared: Any
    batch: bool

    @property
    def is_async(self) -> bool:
        """Whether the function is awaited in the event loop of the process."""
        return is_async(self.function)

    def record_loader(self) -> RecordLoader:
        """Return a new object that validates and loads the records of the handler.

        Raises:
            Unfit: the annotation is not a message type, or cannot be evaluated.

        """
        declared = self.declared
        if declared is None:
            declared = row_type(self.function, batch=self.batch)
        try:
            return loader_of(declared)
        except UnfitMessageType as error:
            got = f"takes {error.got}"
            raise UnfitHandler(self.function, error.expected, got, error.advice) from error

    def make_callable(
        self, session_type: type | None, resources: Resources
    ) -> Callable[[Any, Given], None]:
        """Return a callable that calls the function with all its arguments.

        The callable has two arguments: a record or Records, and a Given with the values for the
        other parameters of the function. The callable raises UnexpectedResult if the function
        returns anything except None.

        Args:
            session_type: the type of the store's session; None if there is no store.
            resources: the resources of the process; resources that the function requests are added.

        Raises:
            Unfit: the function cannot be a handler. For example, a parameter requests an unknown
                value, there is no parameter for the message, or the function awaits its bus.

        """
        function, call = self.function, self._call(session_type, resources)

        def checked(argument: Any, given: Given) -> None:
            check_returned(function, call(argument, given))

        return checked

    def make_async_callable(
        self, session_type: type | None, resources: Resources
    ) -> Callable[[Any, Given], Coroutine[Any, Any, None]]:
        """Return a callable whose result is a coroutine that awaits the async function.

        The callable has two arguments: a record or Records, and a Given with the values for the
        other parameters of the function. The coroutine raises UnexpectedResult if the function
        returns anything except None.

        Args:
            session_type: the type of the store's session; None if there is no store.
            resources: the resources of the process; resources that the function requests are added.

        Raises:
            Unfit: the function cannot be a handler.

        """
        function, call = self.function, self._call(session_type, resources)

        async def checked(argument: Any, given: Given) -> None:
            result = await cast("Coroutine[Any, Any, object]", call(argument, given))
            check_returned(function, result)

        return checked

    def _call(self, session_type: type | None, resources: Resources) -> Call:
        parameters = self.parameters(session_type)
        resources.request(parameters)
        return parameters.call_of(self.function, resources.value_of)

    def parameters(self, session_type: type | None) -> Parameters:
        """Return the parameters of the function except the first one, which gets the message.

        Args:
            session_type: the type of the store's session; None if there is no store.

        Raises:
            Unfit: the function cannot be a handler. For example, a parameter requests an unknown
                value, there is no parameter for the message, or the function awaits its bus.

        """
        function = self.function
        check_result(function)
        offer = Offer.to_handlers(session_type, batch=self.batch)
        parameters = Parameters.of(function, offer, first="the message")
        if self.is_async:
            refuse_awaited_bus(function, batch=self.batch)
        else:
            refuse_async_resources(function, parameters)
        return parameters


def refuse_in_transaction(function: Callable[..., object]) -> None:
    """Raise UnfitHandler if a handler or dead handler is async.

    feedbus calls this for functions that run in a transaction of the store. The transaction can be
    used only in the consumer's thread, but an async function runs in the thread of the event loop.
    """
    if is_async(function):
        expected = (
            "a handler that is defined with 'def', or store = false in the table of the queue"
        )
        got = "is async, but a transaction of the [store] can only be used in one thread"
        raise UnfitHandler(function, expected, got)


@overload
def handler(message: type[Any], /, *, batch: bool = False) -> Callable[[Function], Function]: ...
@overload
def handler(*, batch: bool = False) -> Callable[[Function], Function]: ...
@overload
def handler(function: Function, /) -> Function: ...
def handler(message: Any = None, /, *, batch: bool = False, **others: object) -> Any:
    """Mark a function, sync or async, as the handler of a queue's messages.

        @handler                        # the annotation of the first parameter is the message type
        def reserve(order: Order) -> None: ...

        @handler(OrderSchema)           # a marshmallow schema, which loads dicts
        def reserve(order: dict[str, Any]) -> None: ...

        @handler(batch=True)            # many records in one call
        def reserve(orders: Records[Order]) -> None: ...

    Args:
        message: the type of one record: a marshmallow schema, a dataclass, a msgspec.Struct, a
            pydantic model, dict, str or bytes. By default, the annotation of the first parameter.
        batch: True if the function takes Records, False if it takes a single record.
        others: no other argument is allowed; the error says where options of queues belong.

    The marked function can have further parameters. feedbus selects their values by their
    annotations: a Bus, the Message, the session of the store, and the values of resources.

    Raises:
        UnfitHandler: the type is not a message type, or the marked object is not a function that
            can be a handler. For example, a generator function is refused, because feedbus does not
            iterate over results. A callable object and a functools.partial are accepted.
        TypeError: an argument is unknown, or `message` is a value and not a type.

    """
    if others:
        msg = f"handler() has no argument '{min(others)}': expected batch; {NOT_IN_CODE}"
        raise TypeError(msg)
    if message is not None and not _is_type(message):
        return _mark(message, None, batch=batch)
    if message is not None:
        try:
            loader_of(message)
        except UnfitMessageType as error:
            if not isinstance(message, type) and get_origin(message) is None:
                refuse("message", error.expected, message, error.advice or NOT_IN_CODE)
            got = f"is {error.got}, which is not a message type"
            raise UnfitHandler(message, error.expected, got, error.advice) from error
    return partial(_mark, declared=message, batch=batch)


def _is_type(given: Any) -> bool:
    """Whether the argument of @handler(…) is a message type, and not the function.

    An object that cannot be called counts as a message type. If feedbus cannot use the object as a
    message type, loader_of() refuses it later.
    """
    return isinstance(given, type) or get_origin(given) is not None or not callable(given)


def _mark(function: Function, declared: Any, *, batch: bool) -> Function:
    _check_function(function)
    try:
        setattr(function, MARK, Handler(function, declared, batch))
    except AttributeError as error:
        got = f"is a {type(function).__name__}, which cannot be marked as a handler"
        advice = "write a function that calls it"
        raise UnfitHandler(function, EXPECTED, got, advice) from error
    return function


def _check_function(function: object) -> None:
    called = getattr(function, "__call__", None)  # noqa: B004 -- the method that a call of the object runs
    if isinstance(function, type):
        got, advice = "is a class", "write a function, or mark an object that has __call__"
    elif called is None:
        got, advice = "is not callable", "write a function"
    elif _any(inspect.isasyncgenfunction, function, called):
        got = "is an async generator, which feedbus does not iterate"
        advice = "publish with bus.publish(…) instead of yield"
    elif _any(inspect.isgeneratorfunction, function, called):
        got = "is a generator function, which feedbus does not iterate"
        advice = "publish with bus.publish(…) instead of yield"
    else:
        return
    raise UnfitHandler(function, EXPECTED, got, advice)


def is_async(function: object) -> bool:
    """Whether the result of a function, or of an object with __call__, must be awaited."""
    called = getattr(function, "__call__", None)  # noqa: B004 -- the method that a call of the object runs
    return _any(inspect.iscoroutinefunction, function, called)


def _any(kind: Callable[[Any], bool], *functions: object) -> bool:
    return any(map(kind, functions))


def check_returned(function: object, result: object) -> None:
    """Raise UnexpectedResult if the result of a handler is not None.

    Args:
        function: the handler, or the dead handler.
        result: what it returned.

    """
    if result is not None:
        msg = f"{name_of(function)}{file_and_line(function)} {_complaint(result)}"
        raise UnexpectedResult(msg)


def _complaint(result: object) -> str:
    """Return why a handler's result is wrong; close a coroutine or a generator."""
    got, advice = repr(result)[:200], "return nothing; raise Reject or Retry for another verdict"
    if isinstance(result, Drop | Reject | Retry):
        advice = f"write 'raise {type(result).__name__}(…)'"
    elif inspect.iscoroutine(result):
        result.close()
        advice = "its code has not run: define the handler with 'async def', and await it there"
    elif inspect.isgenerator(result):
        result.close()
        advice = "its code has not run: write a function without 'yield'"
    elif inspect.isasyncgen(result):
        advice = "its code has not run: write an 'async def' without 'yield'"
    elif inspect.isawaitable(result):
        advice = "it was not awaited: define the handler with 'async def', and await it there"
    return f"returned {got}: expected None; {advice}"


def resolve(dotted: str, root: Path) -> Handler:
    """Import a handler, and return it.

    Args:
        dotted: "package.module:function".
        root: the folder of the topology, which is added to sys.path.

    Raises:
        UsageError: the function cannot be imported, or is not a handler.

    """
    found = resolve_object(dotted, root)
    marked = getattr(found, MARK, None)
    if not isinstance(marked, Handler):
        msg = f"{dotted} is not a handler: expected a function with the decorator @feedbus.handler"
        raise UsageError(msg)
    # A decorator above @handler returns a wrapper. If the wrapper has a copy of the mark, as
    # functools.wraps() makes it, the wrapper is called, and not the function in it.
    return marked if marked.function is found else replace(marked, function=found)
