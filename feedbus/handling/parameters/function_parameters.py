"""What the parameters of a function request; the annotations are evaluated once."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from feedbus.handling.annotations import (
    Unfit,
    Unresolved,
    annotation,
    file_and_line,
    name_of,
    shown,
)
from feedbus.handling.parameters.annotation_lookup import Requested, find_request
from feedbus.handling.parameters.offered_values import (
    ASKED_FOR,
    BUS,
    OPENING,
    UNANNOTATED,
    Given,
    Offer,
)
from feedbus.handling.parameters.resource_functions import Resource

MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # *args and **kwargs

# A function that returns the argument of one parameter. It is called with a Given, or, when a
# resource is opened, with an Opening.
Source = Callable[[Any], Any]
# A function that calls a handler or a dead handler. It is called with the first argument of this
# handler, and with a Given.
Call = Callable[[Any, Given], object]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the parameters of one function request: resources, and other values by their names.

    Attributes:
        positions: the requests of the parameters that get their arguments by position, in order.
            Each request is a resource, or the name of a value such as "bus".
        keywords: maps the names of the parameters that get their arguments by name to their
            requests.
    """

    positions: tuple[Requested, ...] = ()
    keywords: Mapping[str, Requested] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., object], offer: Offer, *, first: str = "") -> Parameters:
        """Return what the parameters of a function request.

        Args:
            function: a handler, a dead handler, the function of a resource, or a class.
            offer: the values that the parameters can request, in addition to resources.
            first: a description of the argument that the caller passes as the first one, such as
                "the message". The first parameter is then left out. "" if there is no such
                argument.

        Raises:
            Unfit: a parameter without a default requests an unknown value, or there is no first
                parameter for the described argument.

        """
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            # Python may not know the parameters of a function in C. Then the function gets the bus
            # after its first argument, if the bus is offered.
            return cls((BUS,) if BUS in offer.names else ())
        if first:
            if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
                expected = f"{first} as its first parameter"
                got = f"has no parameter for {first}"
                raise Unfit(function, expected, got)
            _refuse_bus(function, parameters, first)
            del parameters[0]
        positions: list[Requested] = []
        keywords: dict[str, Requested] = {}
        by_name = False
        for position, parameter in enumerate(parameters):
            if parameter.kind in MANY:
                continue
            given = find_request(function, parameter, position, offer)
            if given is None:
                by_name = True  # the parameters after it cannot be passed by position
            elif by_name or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords[parameter.name] = given
            else:
                positions.append(given)
        return cls(tuple(positions), keywords)

    @property
    def wants(self) -> Iterator[Requested]:
        """What each parameter requests: a resource, or the name of a value such as "bus"."""
        yield from self.positions
        yield from self.keywords.values()

    def asks_for(self, name: str) -> bool:
        """Whether a parameter requests the value with this name, such as "bus" or "session"."""
        return name in self.wants

    def resources(self, asking: tuple[Resource, ...] = ()) -> list[Resource]:
        """Return the requested resources, and the resources that these need, without repetition.

        Each resource comes after the resources that it needs.

        Args:
            asking: only for recursive calls: the resources whose parameters led to this call. Each
                requests the next one. The last one has the parameters of this object.

        Raises:
            Unfit: a resource requests an unknown value, or itself.

        """
        found: dict[Resource, None] = {}
        for want in self.wants:
            if not isinstance(want, Resource):
                continue
            if want in asking:
                way = " → ".join(name_of(each.function) for each in (*asking, want))
                expected = "resources that do not depend on each other"
                raise Unfit(want.function, expected, f"depends on itself: {way}")
            found |= dict.fromkeys(of_resource(want).resources((*asking, want)))
            found[want] = None
        return list(found)

    def sources(
        self, value_of: Callable[[Resource], Source]
    ) -> tuple[list[Source], dict[str, Source]]:
        """Return, for each parameter, a function that returns its argument (a Source).

        A Source is called with the values that are offered to the function, such as the bus.

        Args:
            value_of: returns the Source for the value of a resource.

        Returns:
            The Sources of the arguments that are passed by position, and the Sources of the
            arguments that are passed by name.
        """

        def source(want: Requested) -> Source:
            return value_of(want) if isinstance(want, Resource) else attrgetter(want)

        by_name = {name: source(want) for name, want in self.keywords.items()}
        return [source(want) for want in self.positions], by_name

    def call_of(
        self, function: Callable[..., object], value_of: Callable[[Resource], Source]
    ) -> Call:
        """Return a callable that calls a function with its first argument and its other arguments.

        The callable gets the first argument, such as the record, and the values that are offered to
        the function, such as the bus. It returns the function's result.

        Args:
            function: the function with these parameters.
            value_of: returns, for a resource, a function that returns the value of the resource.
        """
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


def _refuse_bus(
    function: Callable[..., object], parameters: Sequence[inspect.Parameter], first: str
) -> None:
    """Raise Unfit if the first parameter is for the bus instead of the message.

    Args:
        function: a handler or a dead handler.
        parameters: all parameters of the function.
        first: what the first parameter gets, such as "the message".

    """
    name, written = parameters[0].name, parameters[0].annotation
    try:
        found = annotation(function, name, written)
    except Unresolved:  # row_type() reports it, if the type is needed
        return
    if getattr(found, ASKED_FOR, None) == BUS:
        got = f"has '{name}: {shown(found)}' as its first parameter"
    elif name == BUS and written is inspect.Parameter.empty and len(parameters) > 1:
        got = f"has '{name}' as its first parameter"
    else:
        return
    raise Unfit(function, f"{first} as its first parameter", got, "write the bus after it")


def of_resource(resource: Resource) -> Parameters:
    """Return what the parameters of a resource's function request: resources, or the Topology.

    Raises:
        Unfit: a parameter without a default requests an unknown value.
    """
    return Parameters.of(resource.function, OPENING)


def refuse_async_resources(function: Callable[..., object], parameters: Parameters) -> None:
    """Raise Unfit if a function that is not async needs an async resource, also indirectly.

    Args:
        function: a handler or dead handler that is not async.
        parameters: what its parameters request.
    """
    for resource in parameters.resources():
        if resource.is_async:
            name = f"{name_of(resource.function)}{file_and_line(resource.function)}"
            expected = "an async handler, or a resource that is defined with 'def'"
            raise Unfit(function, expected, f"is not async, but needs the async resource {name}")


def check_result(function: Callable[..., object]) -> None:
    """Raise Unfit if the return annotation of a handler names a type other than None."""
    try:
        written = inspect.signature(function).return_annotation
        found = annotation(function, "return", written)
    except (TypeError, ValueError):  # Python may not know the parameters of a function in C
        return
    except Unresolved as error:
        raise Unfit(function, "-> None", str(error)) from error
    if found not in (None, typing.NoReturn, typing.Never) and found not in UNANNOTATED:
        advice = "to reject, retry or drop a record, raise Reject, Retry or Drop"
        raise Unfit(function, "-> None", f"has the return annotation {shown(found)}", advice)
