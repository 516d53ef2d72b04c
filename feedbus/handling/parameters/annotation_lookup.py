"""Find the value that one parameter requests, by its annotation."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

from feedbus.handling.annotations import (
    Unfit,
    Unresolved,
    annotation,
    name_of,
    namespace,
    shown,
)
from feedbus.handling.parameters.offered_values import ASKED_FOR, BUS, SESSION, UNANNOTATED, Offer
from feedbus.handling.parameters.resource_functions import Resource, declared, match
from feedbus.name_list import listed

Requested = str | Resource  # the name of an offered value, such as "bus", or a resource
RESOURCES_SHOWN = 5  # the largest number of resources that an error lists
UNIONS = (typing.Union, types.UnionType)


def find_request(
    function: Callable[..., object], parameter: inspect.Parameter, position: int, offer: Offer
) -> Requested | None:
    """Return what a parameter requests by its annotation; None if its default is used.

    The result is the name of an offered value, such as "bus", or a resource. A parameter without a
    type requests the bus if it is the first one after the message, and its name is `bus`, `_bus` or
    `_`.

    Args:
        function: the function that has the parameter.
        parameter: the parameter.
        position: the index of the parameter; the parameter for the message does not count.
        offer: the values that the function can request.

    Raises:
        Unfit: there is no value for the parameter, and it has no default.
    """
    has_default = parameter.default is not inspect.Parameter.empty
    try:
        found = annotation(function, parameter.name, parameter.annotation)
    except Unresolved as error:
        if has_default:
            return None
        raise Unfit(function, offer.expected, str(error)) from error
    want = _requested_by_annotation(function, parameter, found, offer)
    unannotated = found in UNANNOTATED
    if unannotated and position == 0 and BUS in offer.names:
        want = BUS if parameter.name.lstrip("_") in {BUS, ""} else None
    if want is None and not has_default:
        raise _no_value(function, parameter, found, offer)
    return want


def _requested_by_annotation(
    function: Callable[..., object], parameter: inspect.Parameter, found: Any, offer: Offer
) -> Requested | None:
    """Return what an annotation requests; None if nothing fits.

    A union requests a value if exactly one value fits its types; the type None is ignored.

    Args:
        function: the function that has the parameter.
        parameter: the parameter.
        found: the evaluated annotation.
        offer: the values that the function can request.

    """
    if typing.get_origin(found) is Annotated:
        found, *notes = typing.get_args(found)
        named = [each for each in map(declared, notes) if each is not None]
        if named:
            return _checked_resource(function, parameter, found, named[0])
    if found in UNANNOTATED:
        return None
    want = _requested_by_type(function, parameter, found, offer)
    if want is None and typing.get_origin(found) in UNIONS:
        wants = [
            _requested_by_annotation(function, parameter, each, offer) for each in _members(found)
        ]
        given = dict.fromkeys(each for each in wants if each is not None)
        return next(iter(given)) if len(given) == 1 else None
    return want


def _members(found: Any) -> list[Any]:
    """Return the types of a union except None; for another type, the type itself."""
    if typing.get_origin(found) not in UNIONS:
        return [found]
    return [each for each in typing.get_args(found) if each is not types.NoneType]


def _no_value(
    function: Callable[..., object], parameter: inspect.Parameter, found: Any, offer: Offer
) -> Unfit:
    written = "" if found in UNANNOTATED else f": {shown(found)}"
    got = f"has a parameter for which feedbus has no value: '{parameter.name}{written}'"
    hints = [
        f"{name_of(each.function)}: {shown(each.provides())}"
        for each in dict.fromkeys(map(declared, list(namespace(function).values())))
        if each is not None
    ]
    hints = [f"the resources of its module are {listed(hints, RESOURCES_SHOWN)}"] if hints else []
    if offer.session_type is None and written and BUS in offer.names:
        hints.append("there is a session only on a queue with a store")
    if hints:
        got += f" ({'; '.join(hints)})"
    return Unfit(function, offer.expected, got)


def _requested_by_type(
    function: Callable[..., object], parameter: inspect.Parameter, kind: Any, offer: Offer
) -> Requested | None:
    """Return what a type requests; None if there is no value of this type.

    Raises:
        Unfit: a function of this kind cannot request the value, or several resources have the type.

    """
    named = getattr(kind, ASKED_FOR, None) if isinstance(kind, type) else None
    if isinstance(named, str):
        if named in offer.names:
            return named
        if named in offer.refused:
            got = f"has a parameter that it cannot have: '{parameter.name}: {shown(kind)}'"
            raise Unfit(function, offer.refused[named], got)
        return None
    session_type = offer.session_type
    if session_type is not None and isinstance(kind, type) and issubclass(session_type, kind):
        return SESSION
    found = match(namespace(function), kind)
    if len(found) > 1:
        names = [name_of(resource.function) for resource in found]
        forms = [f"Annotated[{shown(kind)}, {name}]" for name in names]
        got = (
            f"has the parameter '{parameter.name}: {shown(kind)}', and several resources have this"
            f" type ({' and '.join(names)})"
        )
        raise Unfit(function, " or ".join(forms), got)
    return found[0] if found else None


def _checked_resource(
    function: Callable[..., object], parameter: inspect.Parameter, kind: Any, resource: Resource
) -> Resource:
    """Check that a resource fits an annotation such as `Annotated[Client, client]`; return it.

    Args:
        function: the function that has the parameter.
        parameter: the parameter with the annotation.
        kind: the type in the annotation; in the example, Client.
        resource: the resource in the annotation; in the example, `client`.

    Raises:
        Unfit: the value of the resource is not of this type.

    """
    provided = resource.provides()
    if kind in UNANNOTATED or any(map(resource.fits, _members(kind))):
        return resource
    name = name_of(resource.function)
    got = f"has the parameter '{parameter.name}: Annotated[{shown(kind)}, {name}]'"
    raise Unfit(function, f"{shown(provided)}, the type of the resource {name}", got)
