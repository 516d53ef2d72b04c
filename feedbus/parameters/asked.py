"""What the parameters of a function ask for: found by annotation, once."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any

from feedbus.annotations import Unfit, Unresolved, annotation, name_of, namespace, place
from feedbus.parameters.resource import Resource, declared, match

# A class that has this attribute can be asked for; it names what is given.
ASKED_FOR = "__feedbus_parameter__"
BUS, SESSION, MESSAGE, TOPOLOGY = "bus", "session", "message", "topology"
DEAD_LETTER = "dead_letter"
UNANNOTATED = (inspect.Parameter.empty, Any, object)
MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SHOWN = {
    BUS: "bus: Bus",
    DEAD_LETTER: "letter: DeadLetter",
    MESSAGE: "message: Message",
    TOPOLOGY: "topology: Topology",
}

Want = str | Resource
Source = Callable[[Any], Any]


class Given:
    """What one call of a handler can be given; what costs is made when it is first asked for."""

    __slots__ = ("bus", "records", "session")

    def __init__(self, bus: Any, session: Any, records: Any) -> None:
        """Keep what is there for every call.

        Args:
            bus: collects what the handler publishes.
            session: of the store's transaction, None where there is none.
            records: the Records that are handled; a single record is a batch of one.

        """
        self.bus = bus
        self.session = session
        self.records = records

    @property
    def message(self) -> Any:
        """The Message of a single record."""
        return self.records.messages[0]


class GivenDeadLetter(Given):
    """What one call of a dead handler can be given."""

    __slots__ = ("dead_letter",)

    def __init__(self, bus: Any, session: Any, records: Any, dead_letter: Any) -> None:
        """Keep the DeadLetter besides."""
        super().__init__(bus, session, records)
        self.dead_letter = dead_letter


Call = Callable[[Any, Given], object]


@dataclass(frozen=True, slots=True)
class Offer:
    """What functions of one kind can ask for, beside resources.

    Attributes:
        names: of what is given.
        session_type: of the store's session, None where there is none.
        refused: by the name of what is not given here, what to write instead.

    """

    names: tuple[str, ...]
    session_type: type | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def to_handlers(cls, session_type: type | None = None, *, batch: bool = False) -> Offer:
        """Return what a handler can ask for."""
        if batch:
            instead = "records.messages: each record of a batch has a message of its own"
            return cls((BUS,), session_type, {MESSAGE: instead})
        return cls((BUS, MESSAGE), session_type)

    @classmethod
    def to_dead_handlers(cls, session_type: type | None) -> Offer:
        """Return what a dead handler can ask for."""
        return cls((BUS, MESSAGE, DEAD_LETTER), session_type)

    @property
    def expected(self) -> str:
        """What can be asked for, as it is written."""
        sessions = [] if self.session_type is None else [f"a {name_of(self.session_type)}"]
        shown = [*(SHOWN[name] for name in self.names), *sessions, "what a resource gives"]
        return f"{', '.join(shown)}, or a default"


OPENING = Offer((TOPOLOGY,))  # what resources and the constructors of middleware can ask for


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a function is called with: names of what is given, and resources, in order."""

    positions: tuple[Want, ...] = ()
    keywords: Mapping[str, Want] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., object], offer: Offer, *, after: str = "") -> Parameters:
        """Return what a function asks for.

        Args:
            function: a handler, a resource, or a class.
            offer: what it can ask for.
            after: what its first parameter is, such as "the message"; "" for nothing.

        Raises:
            Unfit: a parameter without a default asks for what is not there.

        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # of a function in C, Python may not know it
            return cls((BUS,) if BUS in offer.names else ())
        if after:
            if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
                expected = f"{after} as its first parameter"
                raise Unfit(function, expected, f"takes no {after.removeprefix('the ')}")
            del parameters[0]
        positions: list[Want] = []
        keywords: dict[str, Want] = {}
        by_name = False
        for position, parameter in enumerate(parameters):
            if parameter.kind in MANY:
                continue
            given = _asked_for(function, parameter, position, offer)
            if given is None:
                by_name = True  # what comes behind it cannot be given by its place
            elif by_name or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords[parameter.name] = given
            else:
                positions.append(given)
        return cls(tuple(positions), keywords)

    @property
    def wants(self) -> Iterator[Want]:
        """Everything that is asked for."""
        yield from self.positions
        yield from self.keywords.values()

    def asks_for(self, name: str) -> bool:
        """Whether a parameter asks for BUS, SESSION or another of the names."""
        return name in self.wants

    def resources(self, asking: tuple[Resource, ...] = ()) -> list[Resource]:
        """Return the resources that are needed, each behind those that it asks for.

        Args:
            asking: the resources whose parameters these are, the first asked for first.

        Raises:
            Unfit: one of them asks for what is not there, or for itself.

        """
        found: dict[Resource, None] = {}
        for want in self.wants:
            if not isinstance(want, Resource):
                continue
            if want in asking:
                way = " → ".join(name_of(each.function) for each in (*asking, want))
                expected = "resources that do not need each other"
                raise Unfit(want.function, expected, f"asks for itself: {way}")
            found |= dict.fromkeys(of_resource(want).resources((*asking, want)))
            found[want] = None
        return list(found)

    def sources(
        self, value_of: Callable[[Resource], Source]
    ) -> tuple[list[Source], dict[str, Source]]:
        """Return what gets each argument from what is given.

        Args:
            value_of: what gets the value of a resource.

        """

        def source(want: Want) -> Source:
            return value_of(want) if isinstance(want, Resource) else attrgetter(want)

        by_name = {name: source(want) for name, want in self.keywords.items()}
        return [source(want) for want in self.positions], by_name

    def call_of(
        self, function: Callable[..., object], value_of: Callable[[Resource], Source]
    ) -> Call:
        """Return a function of a message and of what can be given, which calls function."""
        if not self.keywords:
            if not self.positions:
                return lambda message, _given: function(message)
            if self.positions == (BUS,):
                return lambda message, given: function(message, given.bus)
        positions, keywords = self.sources(value_of)

        def call(message: Any, given: Given) -> object:
            named = {name: source(given) for name, source in keywords.items()}
            return function(message, *(source(given) for source in positions), **named)

        return call


def of_resource(resource: Resource) -> Parameters:
    """Return what a resource asks for."""
    return Parameters.of(resource.function, OPENING)


def refuse_async_resources(function: Callable[..., object], parameters: Parameters) -> None:
    """Raise Unfit for a function that is not async and needs an async resource."""
    for resource in parameters.resources():
        if resource.is_async:
            name = f"{name_of(resource.function)}{place(resource.function)}"
            expected = "an async handler, or a resource under 'def'"
            raise Unfit(function, expected, f"is not async, and needs the async resource {name}")


def check_result(function: Callable[..., object]) -> None:
    """Raise Unfit for a handler whose return annotation is something else than None."""
    try:
        written = inspect.signature(function).return_annotation
        found = annotation(function, "return", written)
    except (TypeError, ValueError):  # of a function in C, Python may not know it
        return
    except Unresolved as error:
        raise Unfit(function, "-> None", str(error)) from error
    if found not in (None, typing.NoReturn, typing.Never) and found not in UNANNOTATED:
        advice = "raise Reject, Retry or Drop for another verdict"
        raise Unfit(function, "-> None", f"returns {_shown(found)} by its annotation", advice)


def _asked_for(
    function: Callable[..., object], parameter: inspect.Parameter, position: int, offer: Offer
) -> Want | None:
    """Return what a parameter asks for; None for nothing, as it has a default."""
    has_default = parameter.default is not inspect.Parameter.empty
    try:
        found = annotation(function, parameter.name, parameter.annotation)
    except Unresolved as error:
        if has_default:
            return None
        raise Unfit(function, offer.expected, str(error)) from error
    if typing.get_origin(found) is Annotated:
        found, *notes = typing.get_args(found)
        named = [each for each in map(declared, notes) if each is not None]
        if named:
            return _agreed(function, parameter, found, named[0])
    want: Want | None = None
    if found not in UNANNOTATED:
        want = _given(function, parameter, found, offer)
    elif position == 0 and BUS in offer.names and parameter.name.lstrip("_") in {BUS, ""}:
        want = BUS
    if want is None and not has_default:
        raise _nobody_gives(function, parameter, found, offer)
    return want


def _nobody_gives(
    function: Callable[..., object], parameter: inspect.Parameter, found: Any, offer: Offer
) -> Unfit:
    shown = "" if found in UNANNOTATED else f": {_shown(found)}"
    got = f"asks for what nobody gives: its parameter '{parameter.name}{shown}'"
    if offer.session_type is None and shown and BUS in offer.names:
        got += ", and there is no [store] whose session it could be"
    return Unfit(function, offer.expected, got)


def _given(
    function: Callable[..., object], parameter: inspect.Parameter, wanted: Any, offer: Offer
) -> Want | None:
    """Return what there is of a type."""
    named = getattr(wanted, ASKED_FOR, None) if isinstance(wanted, type) else None
    if isinstance(named, str):
        if named in offer.names:
            return named
        if named in offer.refused:
            got = f"asks for what it cannot be given: '{parameter.name}: {_shown(wanted)}'"
            raise Unfit(function, offer.refused[named], got)
        return None
    session_type = offer.session_type
    if session_type is not None and isinstance(wanted, type) and issubclass(session_type, wanted):
        return SESSION
    found = match(namespace(function), wanted)
    if len(found) > 1:
        names = [name_of(resource.function) for resource in found]
        forms = [f"Annotated[{_shown(wanted)}, {name}]" for name in names]
        got = f"asks for '{parameter.name}: {_shown(wanted)}', which {' and '.join(names)} give"
        raise Unfit(function, " or ".join(forms), got)
    return found[0] if found else None


def _agreed(
    function: Callable[..., object], parameter: inspect.Parameter, wanted: Any, resource: Resource
) -> Resource:
    """Return a resource that was named, if it gives what the parameter says."""
    provided = resource.provides()
    if wanted in UNANNOTATED or resource.fits(wanted):
        return resource
    name = name_of(resource.function)
    got = f"asks for '{parameter.name}: Annotated[{_shown(wanted)}, {name}]'"
    raise Unfit(function, f"{_shown(provided)}, which {name} gives", got)


def _shown(found: Any) -> str:
    return found.__qualname__ if isinstance(found, type) else str(found)
