"""Which objects can be a handler, and the effect of a returned value."""

from __future__ import annotations

import asyncio
import functools
import warnings
from pathlib import Path

import pytest
from marshmallow import Schema

from feedbus import Reject, Retry, UnexpectedResult, handler
from feedbus.handling.handlers import MARK, UnfitHandler, resolve
from feedbus.handling.parameters import Given
from feedbus.handling.resources import Resources


def plain(message, bus):
    """Take a message and do nothing with it."""


async def asynchronous(message, bus):
    """Would never be awaited."""


async def asynchronous_generator(message, bus):
    yield message


def generator(message, bus):
    yield message


def decorated(function):
    @functools.wraps(function)
    def call(message, bus):
        return function(message, bus)

    return call


class Callable:
    def __call__(self, message, bus):
        """Take a message and do nothing with it."""


class AsyncCallable:
    async def __call__(self, message, bus):
        """Would never be awaited."""


class Slotted:
    __slots__ = ()

    def __call__(self, message, bus):
        """Take a message and do nothing with it."""


FIT = {
    "a function": plain,
    "a lambda": lambda _message, _bus: None,
    "a partial": functools.partial(plain),
    "a decorated function": decorated(plain),
    "a callable object": Callable(),
    "an async function": asynchronous,
    "a partial of an async function": functools.partial(asynchronous),
    "an object with an async call": AsyncCallable(),
}
UNFIT = {
    "an async generator": (asynchronous_generator, "is an async generator"),
    "a generator function": (generator, "is a generator function"),
    "a partial of a generator": (functools.partial(generator), "is a generator function"),
    "an async method": (AsyncCallable().__call__, "is a method"),
    "a method": (Callable().__call__, "is a method"),
    "an object without attributes": (Slotted(), "is a Slotted"),
    "a built-in function": (print, "is a builtin_function_or_method"),
    "a class": (Callable, "is a class"),
    "text": ("take", "is not callable"),
}


def called(marked):
    found, resources = getattr(marked, MARK), Resources(None)
    if found.is_async:
        call = found.make_async_callable(None, resources)
        return asyncio.run(call({}, Given(None, None, None)))
    return found.make_callable(None, resources)({}, Given(None, None, None))


@pytest.mark.parametrize("function", FIT.values(), ids=FIT.keys())
def test_what_is_called_and_returns_nothing_is_a_handler(function):
    marked = handler(Schema)(function)
    called(marked)


@pytest.mark.parametrize(("function", "reason"), UNFIT.values(), ids=UNFIT.keys())
def test_what_would_be_called_without_effect_is_refused_when_it_is_marked(function, reason):
    with pytest.raises(UnfitHandler, match=reason):
        handler(Schema)(function)


def test_a_refusal_names_the_function_with_its_file_and_line():
    line = generator.__code__.co_firstlineno
    with pytest.raises(UnfitHandler, match=rf"^generator \({__file__}:{line}\) is"):
        handler(Schema)(generator)


@pytest.mark.parametrize("declared", [Callable, list[int]])
def test_a_mark_with_what_is_no_message_type_is_refused(declared):
    with pytest.raises(UnfitHandler, match=r"is not a message type: .*expected a dataclass"):
        handler(declared)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (Schema(), r"write @handler\(Schema\), the class"),
        (3, "queues and their options, such as retry, are in topology.toml"),
        ("mail", "queues and their options, such as retry, are in topology.toml"),
    ],
)
def test_a_mark_with_a_value_instead_of_a_type_is_refused(given, advice):
    with pytest.raises(TypeError, match=rf"^message: expected a dataclass, .* got .*; {advice}"):
        handler(given)


async def asynchronous_result(message):
    return Reject(message)


RESULTS = {
    "a result of an async function": (asynchronous_result, "write 'raise Reject"),
    "a coroutine": (decorated(asynchronous), "its code has not run: define the handler"),
    "a generator": (decorated(generator), "its code has not run: .* without 'yield'"),
    "an async generator": (
        decorated(asynchronous_generator),
        "its code has not run: .* without 'yield'",
    ),
    "a verdict": (lambda *_: Reject("no"), r"returned Reject\('no'\).*write 'raise Reject"),
    "another verdict": (lambda *_: Retry("later"), "write 'raise Retry"),
    "a class": (lambda *_: Reject, "expected None"),
    "True": (lambda *_: True, "returned True: expected None"),
    "False": (lambda *_: False, "returned False: expected None"),
    "a dict": (lambda *_: {}, "returned {}: expected None"),
}


@pytest.mark.parametrize(("function", "reason"), RESULTS.values(), ids=RESULTS.keys())
def test_a_handler_that_returns_something_has_failed(function, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnexpectedResult, match=reason):
            called(handler(Schema)(function))


class Mailer:
    @handler
    def send(self, message: dict[str, int]) -> None:
        """Take a message and do nothing with it."""


above = decorated(handler(lambda _message, _bus: None))
bound = Mailer().send


@pytest.mark.parametrize("name", ["above", "bound"])
def test_what_a_name_stands_for_is_called_also_where_the_mark_is_copied(name):
    assert resolve(f"{__name__}:{name}", Path()).function is globals()[name]
