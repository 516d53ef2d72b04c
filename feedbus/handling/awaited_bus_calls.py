"""Find handlers that await a method of the bus, although these methods return no awaitable."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator

from feedbus.handling.annotations import Unfit, Unresolved, annotation
from feedbus.handling.parameters import ASKED_FOR, BUS

METHODS = {"publish", "publish_columns", "publish_many"}


def refuse_awaited_bus(function: Callable[..., object], *, batch: bool) -> None:
    """Raise Unfit if an async handler awaits a call of its bus, such as `await bus.publish(…)`.

    Only calls in the handler itself are found, not calls in functions that the handler calls.

    Args:
        function: an async handler.
        batch: whether the first parameter is Records, which has the methods of a bus, too.

    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
        code = inspect.unwrap(function)
        lines, first_line = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, ValueError, SyntaxError):  # the source may not be known
        return
    names = {each.name for each in parameters if _is_bus(function, each)}
    if batch:
        names.add(parameters[0].name)
    for name, method, line in _awaited(tree, names - _assigned(tree)):
        got = f"awaits {name}.{method}() in line {first_line + line - 1}"
        expected = f"{name}.{method}(…) without 'await'"
        advice = "feedbus sends the message after the handler has returned"
        raise Unfit(function, expected, got, advice)


def _is_bus(function: Callable[..., object], parameter: inspect.Parameter) -> bool:
    if parameter.annotation is inspect.Parameter.empty:
        return parameter.name == BUS
    try:
        found = annotation(function, parameter.name, parameter.annotation)
    except Unresolved:
        return False
    return getattr(found, ASKED_FOR, None) == BUS


def _assigned(tree: ast.Module) -> set[str]:
    """Return the names that do not always refer to the same object in the code of a handler.

    Such a name is a variable that is assigned, or a parameter of more than one function, such as
    the handler and a function in it. A call by such a name may not be a call of the bus.
    """
    assigned = [
        each.id
        for each in ast.walk(tree)
        if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)
    ]
    arguments = [each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)]
    return {*assigned, *(name for name in arguments if arguments.count(name) > 1)}


def _awaited(tree: ast.Module, names: Collection[str]) -> Iterator[tuple[str, str, int]]:
    """Yield the name, the method and the line of each awaited call of a method of a bus.

    Args:
        tree: the code of a handler.
        names: the names that refer to a bus in this code.

    """
    for each in ast.walk(tree):
        if not isinstance(each, ast.Await) or not isinstance(each.value, ast.Call):
            continue
        called = each.value.func
        if not isinstance(called, ast.Attribute) or called.attr not in METHODS:
            continue
        if isinstance(called.value, ast.Name) and called.value.id in names:
            yield called.value.id, called.attr, each.lineno
