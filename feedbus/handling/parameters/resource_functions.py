"""Resources: functions or generators that open something, and the type of their value."""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

from feedbus.handling.annotations import Unfit, Unresolved, annotation, shown

Function = TypeVar("Function", bound=Callable[..., object])
MARK = "__feedbus_resource__"
# The return annotations of a generator, without the type in brackets.
YIELDING = frozenset(
    {
        abc.AsyncGenerator,
        abc.AsyncIterable,
        abc.AsyncIterator,
        abc.Generator,
        abc.Iterable,
        abc.Iterator,
    }
)
FORMS = "with 'def' or 'async def', which returns the value, or yields it once"


@dataclass(frozen=True, slots=True)
class Resource:
    """A function that opens a resource: an object that the handlers of a process share.

    Attributes:
        function: returns the value, or yields it once and closes it afterwards.
    """

    function: Callable[..., Any]

    @property
    def is_async(self) -> bool:
        """Whether the resource is opened and closed in an event loop."""
        function = self.function
        return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)

    @property
    def yields(self) -> bool:
        """Whether the function is a generator, which continues when the resource is closed."""
        function = self.function
        return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)

    def provides(self) -> Any:
        """Return the type of the resource's value, from the return annotation.

        Raises:
            Unfit: there is no return annotation, or it does not name a type.

        """
        form = "AsyncIterator" if self.is_async else "Iterator"
        expected = f"-> {form}[TYPE]" if self.yields else "-> TYPE"
        try:
            written = inspect.signature(self.function).return_annotation
            found = annotation(self.function, "return", written)
        except Unresolved as error:
            raise Unfit(self.function, expected, str(error)) from error
        if found is inspect.Signature.empty:
            raise Unfit(self.function, expected, "is a resource without a return annotation")
        if self.yields:
            given = typing.get_args(found)
            if typing.get_origin(found) not in YIELDING or not given:
                text = written if isinstance(written, str) else shown(found)
                raise Unfit(self.function, expected, f"is a generator with the annotation {text}")
            found = given[0]
        if found is None or found is type(None):
            raise Unfit(self.function, expected, "is a resource whose value is None")
        return found

    def fits(self, wanted: Any) -> bool:
        """Whether the value of the resource has the given type, or a subclass of it."""
        provided = self.provides()
        if provided == wanted:
            return True
        try:
            return (
                isinstance(wanted, type)
                and isinstance(provided, type)
                and issubclass(provided, wanted)
            )
        except TypeError:  # a protocol that cannot be checked at runtime
            return False


def resource(function: Function) -> Function:
    """Mark a function that opens a resource, which handlers request by its type.

        @resource
        async def http() -> AsyncIterator[httpx.AsyncClient]:
            async with httpx.AsyncClient() as client:
                yield client

    The function is called once in each process that needs the resource, before the first message is
    handled. A generator continues after its yield when the process ends. After a handler has raised
    Outage, the resource is closed, and the function is called again. The parameters of the function
    can request other resources and the Topology, by their annotations.

    Raises:
        Unfit: the object is not a function.

    """
    if type(function) is not FunctionType:
        raise Unfit(
            function, f"a function {FORMS}", "is not a function, so it cannot be a resource"
        )
    setattr(function, MARK, Resource(function))
    return function


def declared(found: object) -> Resource | None:
    """Return the Resource of a function with the decorator @resource; None for any other object."""
    # type(), not isinstance(): names of a module may be proxies, which raise an exception when an
    # attribute is read.
    mark = vars(found).get(MARK) if type(found) is FunctionType else None
    return mark if isinstance(mark, Resource) else None


def match(names: Mapping[str, Any], wanted: Any) -> list[Resource]:
    """Return the resources of a module whose value has the given type.

    If at least one resource has exactly this type, resources with a subclass of it are left out.

    Args:
        names: the names of the module, with their objects.
        wanted: the type.

    """
    found = dict.fromkeys(
        mark for value in list(names.values()) if (mark := declared(value)) is not None
    )
    exact = [each for each in found if each.provides() == wanted]
    return exact or [each for each in found if each.fits(wanted)]
