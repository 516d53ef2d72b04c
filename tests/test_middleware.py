"""Middleware: one hook around each call of a handler, which cannot lose a message silently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from feedbus import Call, Middleware, Records, Reject, handler, resource
from feedbus.handling.annotations import Unfit
from feedbus.handling.handlers import MARK
from feedbus.handling.middleware import MiddlewareStack, SwallowedError, resolve_middleware
from feedbus.handling.parameters import Given
from feedbus.handling.resources import Resources
from feedbus.testing import TestSystem
from feedbus.topology import Batch
from tests.handlers_to_run import Numbered, topology_of

STEPS: list[object] = []


@handler(Numbered)
def take(record: dict[str, int]) -> None:
    STEPS.append(record["n"])
    reasons = {1: ValueError(1), 2: Reject("two")}
    if record["n"] in reasons:
        raise reasons[record["n"]]


@handler(Numbered, batch=True)
def take_all(records: Records) -> None:
    STEPS.append(records.column("n"))


@resource
def prefix() -> str:
    return "inner"


class Outer(Middleware):
    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        assert call.records
        STEPS.append("outer begins")
        try:
            yield
        finally:
            STEPS.append("outer ends")


class Inner(Middleware):
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        keys = [message.routing_key for message in call.messages]
        STEPS.append((self.prefix, call.queue, call.consumer, call.records, keys))
        yield


class Swallows(Middleware):
    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        assert call.records
        with suppress(ValueError, Reject):
            yield


class Raises(Middleware):
    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        yield
        msg = f"after {call.records}"
        raise LookupError(msg)


class Rejects(Middleware):
    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise Reject(call.consumer) from error


class NoContextManager(Middleware):
    def around(self, call: Call) -> Iterator[None]:  # type: ignore[override]
        yield call


class ReturnsNothing(Middleware):
    def around(self, call: Call) -> None:  # type: ignore[override]
        """Forget the context manager."""


class Async(Middleware):
    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        assert call.records
        STEPS.append("async begins")
        with suppress(ValueError):
            yield
        STEPS.append("async ends")


@pytest.fixture(autouse=True)
def no_steps():
    STEPS.clear()


def run(*middleware: type[Middleware], numbers=(0,), function="take", **options):
    names = tuple(f"{__name__}:{each.__name__}" for each in middleware)
    topology = topology_of(f"{__name__}:{function}", middleware=names, **options)
    with TestSystem(topology) as system:
        system.bus.publish_many("work", [({"n": n}, f"key.{n}") for n in numbers])
        system.run()
        return [letter.reason for letter in system.dead_letters()]


def test_middleware_nests_in_the_order_of_the_file_and_knows_the_call():
    assert run(Outer, Inner) == []
    assert STEPS == ["outer begins", ("inner", "work", "work", 1, ["key.0"]), 0, "outer ends"]


def test_a_batch_is_one_call():
    assert run(Inner, numbers=(0, 3), function="take_all", batch=Batch(10)) == []
    assert STEPS == [("inner", "work", "work", 2, ["key.0", "key.3"]), [0, 3]]


def test_what_a_handler_raises_goes_through_all_of_it():
    assert run(Outer, Inner, numbers=(2,)) == ["two"]
    assert STEPS[-1] == "outer ends"


@pytest.mark.parametrize(("number", "raised"), [(1, "ValueError: 1"), (2, "Reject: two")])
def test_middleware_that_swallows_an_exception_does_not_acknowledge(number, raised):
    (reason,) = run(Outer, Swallows, numbers=(number,))
    assert reason.startswith(f"SwallowedError: the middleware Swallows ({__file__}:")
    assert reason.endswith(
        f" suppressed {raised}; do not catch the exception, or raise another one"
    )
    assert STEPS.count(number) == 2  # with its retry


def test_middleware_that_raises_is_a_failure_and_may_give_another_verdict():
    assert run(Outer, Raises) == ["LookupError: after 1"]
    assert run(Rejects, numbers=(1,)) == ["work"]
    (reason,) = run(ReturnsNothing)
    assert reason.startswith(f"TypeError: ReturnsNothing.around ({__file__}:")
    assert "returned NoneType: expected a context manager" in reason


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Numbered", "is not a middleware but <class .*: expected a class derived from"),
        ("take", "is not a middleware but <function take"),
        (
            "NoContextManager",
            "is a generator, not a context manager: expected the decorator @contextmanager",
        ),
        (
            "Async",
            r"around \(.*py:\d+\) is async, but a handler of the topology is not async: expected",
        ),
    ],
)
def test_what_cannot_be_middleware_is_a_problem_with_its_place(name, said):
    with pytest.raises(Unfit, match=said):
        resolve_middleware(f"{__name__}:{name}", Path(), asynchronous=False)


def test_async_handlers_run_within_middleware_of_both_kinds():
    topology = topology_of("")
    resources = Resources(topology)
    kinds = [
        resolve_middleware(f"{__name__}:{name}", Path(), asynchronous=True)
        for name in ("Outer", "Async")
    ]
    stack = MiddlewareStack(kinds, topology.consumers["work"], resources)
    resources.open()

    async def call(n: int, given: Given) -> None:
        await asyncio.sleep(0)
        STEPS.append(n)
        if n == 1:
            raise ValueError(n)

    given = Given(None, None, Records.of([{}]))
    asyncio.run(stack.around_async(call)(0, given))
    assert STEPS == ["outer begins", "async begins", 0, "async ends", "outer ends"]
    with pytest.raises(SwallowedError, match=r"the middleware Async .* suppressed ValueError: 1"):
        asyncio.run(stack.around_async(call)(1, given))


def test_without_middleware_the_handler_is_called_as_it_was():
    topology = topology_of("")
    caller = getattr(take, MARK).make_callable(None, Resources(topology))
    stack = MiddlewareStack([], topology.consumers["work"], Resources(topology))
    assert stack.around(caller) is caller
