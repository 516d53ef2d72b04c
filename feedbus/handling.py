"""What a handler is: a plain function, the schema of its messages, and how to find it by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from marshmallow import Schema

from feedbus.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., None])
MARK = "__feedbus_handler__"


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler's function, the schema that loads its messages, and whether it takes Records."""

    function: Callable[[Any, Any], None]
    schema: Schema
    batch: bool


def handler(schema: type[Schema], *, batch: bool = False) -> Callable[[Function], Function]:
    """Mark a function as the handler of messages that schema describes.

    Args:
        schema: the marshmallow schema of one record; the function gets what it loads.
        batch: True for a function of (Records, Bus), False for one of (dict, Bus).

    """

    def mark(function: Function) -> Function:
        setattr(function, MARK, Handler(function, schema(), batch))
        return function

    return mark


def resolve(dotted: str, root: Path) -> Handler:
    """Import "package.module:function" with root on the path; UsageError says what is wrong."""
    found = resolve_object(dotted, root)
    marked = getattr(found, MARK, None)
    if not isinstance(marked, Handler):
        msg = f"{dotted} is not a handler: expected a function under @feedbus.handler(Schema)"
        raise UsageError(msg)
    return marked


def resolve_object(dotted: str, root: Path) -> Any:
    """Import whatever "package.module:name" names, with root on the path."""
    module_name, separator, name = dotted.partition(":")
    if not (module_name and separator and name):
        msg = f"expected 'package.module:name', got '{dotted}'"
        raise UsageError(msg)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        msg = f"cannot import {module_name}: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    if not hasattr(module, name):
        msg = f"{module_name} has no '{name}'"
        raise UsageError(msg)
    return getattr(module, name)
