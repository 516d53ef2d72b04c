"""Check that handlers and other Python objects of a topology can be imported and are suitable."""

from __future__ import annotations

import contextlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from feedbus.config.draft import Draft
from feedbus.config.import_faults import import_fault
from feedbus.config.key_paths import KeyPath
from feedbus.config.order_fields import check_order_field
from feedbus.config.other_imports import check_other_imports
from feedbus.config.problems import Fault
from feedbus.config.schedule_messages import check_schedule_messages
from feedbus.config.store_imports import StoreOffer, check_connections, check_store
from feedbus.errors import UsageError
from feedbus.handling.handlers import Handler, refuse_in_transaction, resolve
from feedbus.handling.imported_objects import BrokenModule
from feedbus.handling.parameters import SESSION
from feedbus.name_list import nearest

EXPECTED = "a function with the decorator @feedbus.handler"


def check_imports(draft: Draft, root: Path) -> None:
    """Import every Python object that topology.toml names, and check that it suits the options.

    The problems are added to the report of the draft. Click commands are not imported; the function
    only checks that the modules of [commands] exist.

    While modules are imported, their output goes to stderr, because stdout can contain the report
    of a command such as `feedbus check --json`.

    Args:
        draft: the loaded values of topology.toml; its report gets the problems.
        root: the folder of the topology, from which modules are imported.

    """
    with contextlib.redirect_stdout(sys.stderr):
        # The features of the store that handlers can use: transactions, and a session as parameter.
        offered = StoreOffer(draft.report.has(("store",)), check_store(draft, root))
        handlers: list[str] = []
        suitable: dict[str, list[Handler]] = {}  # by queue, if none of its handlers has a fault
        for queue, options in draft.queues.items():
            store = offered.to(options)
            imported: dict[tuple[str, ...], Handler] = {}
            number_before = len(draft.report.faults)
            for place, dotted in _dotted(options):
                handlers.append(dotted)
                try:
                    imported[place] = resolve(dotted, root)
                    faults = list(_unsuitable(options, imported[place], store))
                except UsageError as error:
                    faults = [import_fault(error, EXPECTED, root, _suggest(dotted, root))]
                for fault in faults:
                    draft.report.add(draft.at(queue, *place), fault)
            for path, fault in chain(
                _unlike(draft, queue, imported),
                check_order_field(draft, queue, imported.values(), root),
            ):
                draft.report.add(path, fault)
            if imported and len(draft.report.faults) == number_before:
                suitable[queue] = list(imported.values())
        for path, fault in check_schedule_messages(draft, suitable, root):
            draft.report.add(path, fault)
        check_connections(draft, root)
        check_other_imports(draft, root, offered, handlers)
        for name, dotted in draft.loaded.get("commands", {}).items():
            _check_module(draft, ("commands", name), dotted, root)


def _dotted(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each handler of a queue: its path in the queue's table, and its dotted name."""
    if "handler" in options:
        yield ("handler",), options["handler"]
    for option in ("handlers", "handlers_by_type"):
        for name, dotted in options.get(option, {}).items():
            yield (option, name), dotted


def _unlike(
    draft: Draft, queue: str, handlers: Mapping[tuple[str, ...], Handler]
) -> Iterator[tuple[KeyPath, Fault]]:
    """Yield faults if some handlers of a queue are async and others are not.

    The handlers that differ from the queue's first handler get the faults.

    Args:
        draft: the loaded values of the file.
        queue: the name of the queue.
        handlers: maps the path of each imported handler in the queue's table to the handler.

    """
    first = next((each.is_async for each in handlers.values()), False)
    for place, handler in handlers.items():
        if handler.is_async != first:
            got, expected = ("async def", "def") if handler.is_async else ("def", "async def")
            message = (
                f"is defined with '{got}': expected '{expected}', as for the first handler of the"
                " queue"
            )
            yield (
                draft.at(queue, *place),
                Fault(message=message, expected=f"a handler that is defined with '{expected}'"),
            )


def _unsuitable(options: Mapping[str, Any], handler: Handler, store: StoreOffer) -> Iterator[Fault]:
    """Yield why a handler does not suit the options of its queue.

    Args:
        options: the loaded options of the queue.
        handler: the imported handler.
        store: the features of the store that the handler can use.

    Raises:
        UsageError: feedbus cannot call the handler at all.

    """
    if store.is_there:  # a transaction can be used in one thread only, so not by an async handler
        refuse_in_transaction(handler.function)
    parameters = handler.parameters(store.session_type)
    handler.record_loader()  # it raises the UsageError of a wrong message type
    if options.get("stream") and parameters.asks_for(SESSION):
        message = "has a parameter for the store's session, but stream = true has no transaction"
        yield Fault(message=message, expected="a handler without a session")
    if options.get("concurrency", 1) > 1 and handler.batch:
        message = (
            f"takes a batch, but concurrency {options['concurrency']} is for single records; remove"
            " batch=True from @handler, or use shards instead of concurrency: each shard has its"
            " own batches"
        )
        yield Fault(message=message, expected="a handler of one record")
    size = options.get("batch", {}).get("size", 1)
    if size > 1 and not handler.batch:
        message = (
            f"takes one record in a call: expected @handler(…, batch=True) for batch.size {size}"
        )
        yield Fault(message=message, expected="a handler with batch=True")


def _check_module(draft: Draft, path: KeyPath, dotted: str, root: Path) -> None:
    """Report a dotted name whose module does not exist; the module itself is not imported.

    Args:
        draft: gets the fault.
        path: the path of the dotted name in the file.
        dotted: the dotted name.
        root: the folder of the topology.

    """
    module = dotted.partition(":")[0]
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    error: BaseException | None
    try:
        error = None if importlib.util.find_spec(module) else ModuleNotFoundError(name=module)
    except (Exception, SystemExit) as raised:  # noqa: BLE001 -- a package's __init__ may raise any
        error = raised
    if error is not None:
        broken = BrokenModule(module, error, root)
        expected = "a module that can be imported"
        draft.report.add(path, import_fault(broken, expected, root, _suggest(dotted, root)))


def _suggest(dotted: str, root: Path) -> str:
    """Return an existing dotted name that is similar to a wrong name, or ""."""
    module, _, name = dotted.partition(":")
    if module in sys.modules:
        found = sys.modules[module]
        known: Iterable[str] = [
            one for one, value in vars(found).items() if hasattr(value, "__feedbus_handler__")
        ]
        near = nearest(name, known)
        return f"{module}:{near}" if near else ""
    package, _, last = module.rpartition(".")
    folder = root.joinpath(*package.split(".")) if package else root
    near = nearest(last, (one.name for one in pkgutil.iter_modules([str(folder)])))
    return f"{f'{package}.' if package else ''}{near}:{name}" if near and near != last else ""
