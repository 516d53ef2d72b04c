"""What a handler's parameters after the message ask for: found by annotation, once."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any

# A class that has this attribute can be asked for; it names what is given.
ASKED_FOR = "__feedbus_parameter__"
BUS, SESSION = "bus", "session"
UNANNOTATED = (inspect.Parameter.empty, Any, object)
MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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


Call = Callable[[Any, Given], object]


class UnfitParameters(TypeError):  # noqa: N818 -- names what they are
    """A function cannot be called with a message and what it asks for.

    Attributes:
        expected: what can be asked for.

    """

    def __init__(self, problem: str, expected: str) -> None:
        """Say what is wrong and what was expected."""
        self.expected = expected
        super().__init__(f"{problem}: expected {expected}")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a handler is called with after its message: names of what is given, in order."""

    positions: tuple[str, ...] = ()
    keywords: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., object], session_type: type | None) -> Parameters:
        """Return what a function asks for.

        Args:
            function: a handler; its first parameter is the message, or Records.
            session_type: the type of the store's session, None where there is none.

        Raises:
            UnfitParameters: a parameter without a default asks for what is not there.

        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # of a function in C, Python may not know it
            return cls((BUS,))
        if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            problem = "takes no message"
            raise UnfitParameters(problem, "the message as its first parameter")
        positions: list[str] = []
        keywords: dict[str, str] = {}
        by_name = False
        for place, parameter in enumerate(parameters[1:], start=1):
            if parameter.kind in MANY:
                continue
            given = _asked_for(function, parameter, place, session_type)
            if given is None:
                by_name = True  # what comes behind it cannot be given by its place
            elif by_name or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords[parameter.name] = given
            else:
                positions.append(given)
        return cls(tuple(positions), keywords)

    def asks_for(self, name: str) -> bool:
        """Whether a parameter asks for BUS, or for SESSION."""
        return name in self.positions or name in self.keywords.values()

    def call_of(self, function: Callable[..., object]) -> Call:
        """Return a function of a message and of what can be given, which calls function."""
        if not self.keywords:
            if not self.positions:
                return lambda message, _given: function(message)
            if self.positions == (BUS,):
                return lambda message, given: function(message, given.bus)
        positions = [attrgetter(name) for name in self.positions]
        keywords = {name: attrgetter(what) for name, what in self.keywords.items()}

        def call(message: Any, given: Given) -> object:
            named = {name: source(given) for name, source in keywords.items()}
            return function(message, *(source(given) for source in positions), **named)

        return call


def _asked_for(
    function: Callable[..., object],
    parameter: inspect.Parameter,
    place: int,
    session_type: type | None,
) -> str | None:
    """Return what a parameter asks for; None for nothing, as it has a default."""
    expected = "bus: Bus" if session_type is None else f"bus: Bus or a {_name(session_type)}"
    expected += ", or a default"
    annotation = _annotation(function, parameter, expected)
    if annotation in UNANNOTATED:
        if place == 1 and parameter.name.lstrip("_") in {BUS, ""}:
            return BUS
    elif isinstance(annotation, type):
        if hasattr(annotation, ASKED_FOR):
            return str(getattr(annotation, ASKED_FOR))
        if session_type is not None and issubclass(session_type, annotation):
            return SESSION
    if parameter.default is not inspect.Parameter.empty:
        return None
    shown = "" if annotation in UNANNOTATED else f": {_name(annotation)}"
    problem = f"asks for what nobody gives: its parameter '{parameter.name}{shown}'"
    if session_type is None and shown:
        problem += ", and there is no [store] whose session it could be"
    raise UnfitParameters(problem, expected)


def _annotation(
    function: Callable[..., object], parameter: inspect.Parameter, expected: str
) -> Any:
    """Return a parameter's annotation, evaluated where it is a text."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        home = inspect.unwrap(function)
        if isinstance(home, functools.partial):
            home = home.func
        if not hasattr(home, "__globals__"):
            home = type(home).__call__  # of an object that is called
        names = getattr(home, "__globals__", {})
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            annotation = typing.get_type_hints(holder, names)["it"]
        except Exception as error:
            if parameter.default is not inspect.Parameter.empty:
                return inspect.Parameter.empty
            problem = (
                f"has a parameter '{parameter.name}' whose annotation '{annotation}' cannot be"
                f" evaluated ({type(error).__name__}: {error}); import it outside of TYPE_CHECKING"
            )
            raise UnfitParameters(problem, expected) from error
    return (
        typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    )


def _name(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)
