"""Check dead handlers, middleware, codecs, exception names and the programs of processes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from feedbus.codecs import EXPECTED as EXPECTED_CODEC
from feedbus.codecs import resolve_codec
from feedbus.config.draft import Draft
from feedbus.config.import_faults import import_fault
from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault
from feedbus.config.store_imports import StoreOffer
from feedbus.errors import UsageError
from feedbus.handling.dead_handlers import EXPECTED as EXPECTED_DEAD_HANDLER
from feedbus.handling.dead_handlers import DeadLetterFunction
from feedbus.handling.exception_rules import resolve_exception
from feedbus.handling.handlers import refuse_in_transaction, resolve
from feedbus.handling.imported_objects import resolve_object
from feedbus.handling.middleware import EXPECTED, resolve_middleware

Found = TypeVar("Found")


def check_other_imports(
    draft: Draft, root: Path, store: StoreOffer, handlers: Iterable[str]
) -> None:
    """Check that dead handlers, middleware, codecs, exceptions and programs exist.

    Dead handlers, middleware, codecs and exceptions are imported. The programs of `[processes]` are
    searched in the file system. What is not found is added to the report of the draft.

    Args:
        draft: the loaded values of topology.toml; its report gets the problems.
        root: the folder of the topology, from which modules are imported.
        store: the features of the store that dead handlers can use.
        handlers: the dotted names of all handlers. Only async handlers can have async middleware.

    """
    asynchronous = _all_async(handlers, root)
    for queue, options in draft.queues.items():
        if "dead_handler" in options:
            dotted = options["dead_handler"]
            _resolved(
                draft,
                draft.at(queue, "dead_handler"),
                EXPECTED_DEAD_HANDLER,
                root,
                partial(_dead_handler, dotted, root, store.to(options)),
            )
        _exceptions(draft, queue, options.get("retry", {}), root)
    for index, dotted in enumerate(draft.loaded.get("middleware", {}).get("use", ())):
        _resolved(
            draft,
            ("middleware", "use", index),
            EXPECTED,
            root,
            partial(resolve_middleware, dotted, root, asynchronous=asynchronous),
        )
    for kind, dotted in draft.loaded.get("codecs", {}).items():
        _resolved(
            draft, ("codecs", kind), EXPECTED_CODEC, root, partial(resolve_codec, dotted, root)
        )
    for name, process in draft.loaded.get("processes", {}).items():
        _program(draft, name, process, root)


def _resolved(
    draft: Draft, path: KeyPath, expected: str, root: Path, resolve: Callable[[], Found]
) -> Found | None:
    """Return the imported object, or report why it cannot be imported and return None.

    Args:
        draft: gets the fault.
        path: the path of the object's name in the file.
        expected: what the name should refer to.
        root: the folder of the topology; it is left out of the paths in the fault.
        resolve: imports the object and returns it.

    """
    try:
        return resolve()
    except UsageError as error:
        draft.report.add(path, import_fault(error, expected, root))
    return None


def _dead_handler(dotted: str, root: Path, store: StoreOffer) -> DeadLetterFunction:
    function = resolve_object(dotted, root)
    if store.is_there:
        refuse_in_transaction(function)
    return DeadLetterFunction.of(function, store.session_type)


def _all_async(handlers: Iterable[str], root: Path) -> bool:
    """Whether each handler that can be imported is async."""
    are_async = []
    for dotted in handlers:
        with contextlib.suppress(UsageError):
            are_async.append(resolve(dotted, root).is_async)
    return all(are_async)


def _exceptions(draft: Draft, queue: str, retry: dict[str, Any], root: Path) -> None:
    """Report names that are not exceptions, and exceptions in both retry_on and reject_on.

    Args:
        draft: gets the faults.
        queue: the name of the queue.
        retry: the loaded option `retry` of the queue.
        root: the folder of the topology.

    """
    retried: set[type[BaseException]] = set()
    for option in ("retry_on", "reject_on"):
        for index, name in enumerate(retry.get(option, ())):
            path = draft.at(queue, "retry", option, index)
            exception = _resolved(
                draft,
                path,
                "the dotted name of an exception class",
                root,
                partial(resolve_exception, name, root),
            )
            if exception is None:
                continue
            if option == "retry_on":
                retried.add(exception)
            elif exception in retried:
                expected = "each exception in only one of retry_on and reject_on"
                message = f"'{name}' is also in retry_on: expected {expected}"
                draft.report.add(path, Fault(message=message, expected=expected))


def _program(draft: Draft, name: str, process: dict[str, Any], root: Path) -> None:
    """Report a command whose program is not installed on this machine."""
    first = process.get("command", ("python",))[0]
    if first in {"python", "python3"}:
        return  # the supervisor starts the Python that runs feedbus
    path = process.get("environment", {}).get("PATH", os.environ.get("PATH"))
    # The supervisor starts the program in the folder of the topology. So a relative path of the
    # program begins in this folder.
    program = str(root / first) if os.sep in first else first
    if shutil.which(program, path=path) is None:
        where = (
            f"{program} does not exist or is not executable"
            if os.sep in first
            else "no folder of PATH contains it"
        )
        expected = "a program that can be started"
        message = f"there is no program '{first}': {where}; expected {expected}"
        draft.report.add(("processes", name, "command"), Fault(message=message, expected=expected))
