"""The other parameters of handlers, and the errors for parameters that feedbus cannot fill."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Optional

import pytest
from marshmallow import Schema
from typing_extensions import TypeAliasType

from feedbus import Bus, Message, Records, handler, resource
from feedbus.handling.annotations import Unfit
from feedbus.handling.handlers import MARK
from feedbus.handling.parameters import BUS, MESSAGE, SESSION, Given, Offer, Parameters, Resource
from feedbus.handling.resources import Resources
from feedbus.records.batch import Chunk
from feedbus.records.ids import Ids
from feedbus.testing import TestSystem
from feedbus.topology import Exchange, Queue, RetryPolicy, Topology
from feedbus.urls import parse_broker_url
from tests.handlers_to_run import Numbered


class Own:
    """A type that no handler can be given."""


class Engine:
    """The object of a resource."""


class Fast(Engine):
    """A subclass of it."""


@resource
def primary() -> Iterator[Engine]:
    yield Engine()


@resource
def replica() -> Engine:
    return Engine()


@resource
def fast() -> Fast:
    return Fast()


def number(value: Resource) -> Any:
    return lambda _: value.function.__name__


def asked(function: Any, session_type: type | None = None) -> Parameters:
    return Parameters.of(function, Offer.to_handlers(session_type), first="the message")


def test_parameters_are_found_by_annotation_in_any_order_and_left_at_their_defaults():
    def function(
        message: dict[str, int], own: int | None = None, *, session: Own, bus: Bus
    ) -> object:
        return message, own, session, bus

    found = asked(function, Own)
    assert found == Parameters((), {"session": SESSION, "bus": BUS})
    assert found.call_of(function, number)(1, Given(2, 3, None)) == (1, None, 3, 2)
    assert asked(lambda _, bus: bus) == Parameters((BUS,))
    assert asked(lambda *_: None) == Parameters()
    assert asked(print) == Parameters()
    with pytest.raises(Unfit, match="there is a session only on a queue with a store"):
        asked(function)


def test_what_is_optional_is_given_where_it_can_be():
    def function(  # noqa: PLR0917 -- a form each
        message: dict[str, int],
        bus: Bus | None = None,
        session: Optional[Own] = None,  # noqa: UP045 -- the older form
        one: Fast | None = None,
        other: Annotated[Engine | None, replica] = None,
        third: Annotated[Engine, replica] | None = None,
        both: Bus | Own | None = None,
    ) -> None: ...

    def default(message: dict[str, int], own: Own | None = None, *, bus: Bus | None) -> None: ...

    def needed(message: dict[str, int], own: Own | None) -> None: ...

    wants = asked(function, Own).positions
    names = [want if isinstance(want, str) else want.function for want in wants]
    assert names == [BUS, SESSION, fast, replica, replica]
    assert asked(default) == Parameters((), {"bus": BUS})
    with pytest.raises(Unfit, match="has a parameter for which feedbus has no value: 'own: "):
        asked(needed)


def test_a_resource_is_found_by_its_type_or_by_its_name():
    def function(_: object, one: Fast, other: Annotated[Engine, replica], message: Message) -> None:
        return one, other, message

    found = asked(function)
    assert found == Parameters((Resource(fast), Resource(replica), MESSAGE))
    records = Records.of([{}], ["order-7"])
    assert found.call_of(function, number)({}, Given(None, None, records)) == (
        "fast",
        "replica",
        Message(message_id="order-7"),
    )


Replica = TypeAliasType("Replica", Annotated[Engine, replica])


def test_an_alias_of_a_type_is_what_it_stands_for():
    def function(_: object, one: Replica) -> None: ...

    assert asked(function) == Parameters((Resource(replica),))


def ambiguous(_: object, engine: Engine) -> None: ...
def other_type(_: object, engine: Annotated[int, replica]) -> None: ...
def unknown_name(_: object, engine: Absent) -> None: ...  # noqa: F821 -- that is the point
def nothing_such(_: object, engine: Own) -> None: ...
def returns(_: object) -> int: ...
def returns_unknown(_: object) -> Absent: ...  # noqa: F821 -- that is the point
def no_message() -> None: ...
def bus_first(bus: Bus, message: dict[str, int]) -> None: ...
def unannotated_bus_first(bus, message) -> None: ...
async def awaits(_: object, other: Bus) -> None:
    await other.publish("work", {})  # type: ignore[func-returns-value]


UNFIT = {
    ambiguous: r"'engine: Engine', and several resources have this type \(primary and replica\): "
    "expected Annotated",
    other_type: r"Annotated\[int, replica\]': expected Engine, the type of the resource replica",
    unknown_name: r"'engine: Absent', which cannot be evaluated \(NameError",
    nothing_such: "has a parameter for which feedbus has no value: 'engine: Own'",
    returns: "has the return annotation int: expected -> None; to reject",
    returns_unknown: "'return: Absent', which cannot be evaluated",
    no_message: "has no parameter for the message: expected the message as its first parameter",
    bus_first: "has 'bus: Bus' as its first parameter: expected the message as its first",
    unannotated_bus_first: "has 'bus' as its first parameter: expected the message as its first",
    awaits: rf"awaits other.publish\(\) in line {awaits.__code__.co_firstlineno + 1}: expected"
    r" other.publish\(…\) without 'await'; feedbus sends",
}


@pytest.mark.parametrize("function", UNFIT, ids=lambda each: each.__name__)
def test_a_handler_that_cannot_be_called_is_a_problem_with_its_place(function):
    marked = getattr(handler(Schema)(function), MARK)
    place = rf"^{function.__name__} \({__file__}:{function.__code__.co_firstlineno}\) .*"
    with pytest.raises(Unfit, match=place + UNFIT[function]):
        marked.parameters(None)


def test_a_batch_handler_has_no_message_of_its_own():
    @handler(Schema, batch=True)
    def function(records: Records, message: Message) -> None: ...

    with pytest.raises(Unfit, match=r"'message: Message': expected records.messages: each record"):
        getattr(function, MARK).parameters(None)


SEEN: list[Any] = []


@handler(Numbered)
def note(record: dict[str, int], message: Message) -> None:
    SEEN.append(message)
    if message.attempt < 3:
        raise ValueError(message.attempt)


@handler(Numbered, batch=True)
def note_all(records: Records) -> None:
    SEEN.extend(records.where("n", {1}).messages)


def a_topology(tmp_path, function, **options):
    return Topology(
        name="noted",
        path=tmp_path / "topology.toml",
        broker_url=parse_broker_url("sqlite:///var/broker.db"),
        exchanges={"work": Exchange("work", "topic", pack=10)},
        queues={
            "work": Queue(
                "work",
                "work",
                f"{__name__}:{function}",
                routing_keys=("#",),
                retry=RetryPolicy((1.0, 1.0), "dead-letter"),
                **options,
            )
        },
    )


def test_a_handler_gets_the_message_of_its_record_at_each_attempt(tmp_path):
    SEEN.clear()
    before = datetime.now(UTC).replace(microsecond=0)
    with TestSystem(a_topology(tmp_path, "note")) as system:  # its clock begins here
        system.publish("work", {"n": 1}, key="a.b", message_id="first")
        system.run()
        assert system.dead_letters() == []
    assert [message.attempt for message in SEEN] == [1, 2, 3]
    for message in SEEN:
        assert (message.routing_key, message.message_id) == ("a.b", "first")
        assert (message.queue, message.consumer) == ("work", "work")
        assert before <= message.published_at
        assert dict(message.headers) == {}
        assert message.redelivered is False
        with pytest.raises(TypeError):
            message.headers["x"] = 1


def test_records_have_the_messages_of_their_records_also_out_of_packs(tmp_path):
    SEEN.clear()
    with TestSystem(a_topology(tmp_path, "note_all")) as system:
        system.bus.publish_many("work", [({"n": n % 2}, f"key.{n}") for n in range(4)])
        system.run()
    assert [message.routing_key for message in SEEN] == ["key.1", "key.3"]
    ids = [message.message_id for message in SEEN]
    assert [text.rpartition(".")[2] for text in ids] == ["0-1", "0-3"]


def test_a_bad_resource_is_a_problem_with_its_place():
    @resource
    def untyped(): ...

    @resource
    def wrongly_typed() -> Engine:
        yield Engine()

    with pytest.raises(Unfit, match=r"untyped.*without a return annotation: expected -> TYPE"):
        Resource(untyped).provides()
    with pytest.raises(Unfit, match=r"with the annotation Engine: expected -> Iterator\[TYPE\]"):
        Resource(wrongly_typed).provides()
    wrongly_typed.__annotations__["return"] = Iterator
    with pytest.raises(Unfit, match=r"with the annotation Iterator: expected -> Iterator\[TYPE\]"):
        Resource(wrongly_typed).provides()
    with pytest.raises(
        Unfit, match="is not a function, so it cannot be a resource: expected a function"
    ):
        resource(Engine)


class A:
    """Needs a B."""


class B:
    """Needs an A."""


@resource
def an_a(b: B) -> A: ...
@resource
def a_b(a: A) -> B: ...


def test_resources_that_need_each_other_are_a_problem():
    def function(_: object, a: A) -> None: ...

    with pytest.raises(Unfit, match="depends on itself: an_a → a_b → an_a"):
        asked(function).resources()


@resource
async def awaited() -> asyncio.Queue[int]:
    return asyncio.Queue()


def test_a_sync_handler_cannot_ask_for_an_async_resource():
    @handler(Schema)
    def function(_: object, own: asyncio.Queue[int]) -> None: ...

    with pytest.raises(Unfit, match=r"is not async, but needs the async resource awaited \(.*\d\)"):
        getattr(function, MARK).make_callable(None, Resources(None))


@dataclass
class Delivered:
    """The deliveries of some records."""

    keys: list[str]

    def message(self, row: int) -> Message:
        return Message(routing_key=self.keys[row])


def test_records_keep_their_messages_however_they_are_chosen():
    chunks = [
        Chunk(Ids("a", range(3)), {}, {"n": [0, 1, 2]}, range(3)),
        Chunk(Ids("b", None), {"n": 3}, {}),
    ]
    records = Records(chunks, [Delivered(["k0", "k1", "k2"]), Delivered(["k3"])])

    def keys(some: Records) -> list[str]:
        return [message.routing_key for message in some.messages]

    assert keys(records) == ["k0", "k1", "k2", "k3"]
    assert keys(records.where("n", {1, 3})) == ["k1", "k3"]
    assert keys(records.only(["a-2", "b"])) == ["k2", "k3"]
    assert keys(records.only(["b"])) == ["k3"]
    assert [keys(each) for each in records.batches_of_one()] == [["k0"], ["k1"], ["k2"], ["k3"]]
    assert [each.message_id for each in Records.of([{}, {}]).messages] == ["record-0", "record-1"]
