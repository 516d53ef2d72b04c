"""Check that the handlers of a topology accept the messages of its schedules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from feedbus.config.draft import RING, Draft, Faults, Options
from feedbus.config.problems import Fault
from feedbus.config.schedule_options import receiving_queues
from feedbus.errors import InvalidBody, Outage
from feedbus.handling.annotations import file_and_line, name_of
from feedbus.handling.handlers import Handler
from feedbus.handling.routes import HandlerRoutes
from feedbus.records.packs import pack_of_one


def check_schedule_messages(
    draft: Draft, handlers_by_queue: Mapping[str, list[Handler]], root: Path
) -> Faults:
    """Yield a fault for each schedule whose messages would become dead letters.

    A message becomes a dead letter if its queue has no handler for it, if the payload lacks the
    field of the queue's `order_by`, or if the message type of the handler refuses the payload.

    Args:
        draft: the loaded values of topology.toml.
        handlers_by_queue: the handlers of each queue, in the order of the file. Queues with a fault
            in a handler are left out.
        root: the folder of the topology; it is left out of the paths in the fault.

    Yields:
        The path of each wrong value in topology.toml, with its fault: what is wrong.

    """
    wrong = {path[:2] for path, _ in draft.report.faults}  # such as ("schedules", "nightly")
    for name, options in draft.loaded.get("schedules", {}).items():
        if ("schedules", name) in wrong:
            continue
        # A codec of the project may change the payload, so only plain JSON can be checked.
        if "content_type" in draft.loaded.get("exchanges", {}).get(options["exchange"], {}):
            continue
        queues = receiving_queues(draft, options)
        if draft.exchange_type(options) == RING and len(queues) > 1:
            continue  # only one of the queues gets the message, and it is not known here which one
        for queue in queues:
            if queue in handlers_by_queue:
                yield from _refused(draft, name, queue, handlers_by_queue[queue], root)


def _refused(draft: Draft, name: str, queue: str, handlers: list[Handler], root: Path) -> Faults:
    """Yield a fault if a queue cannot handle the messages of a schedule.

    Args:
        draft: the loaded values of the file.
        name: the name of the schedule.
        queue: the name of the queue.
        handlers: the handlers of the queue.
        root: the folder of the topology; it is left out of the paths in the fault.

    """
    options: Options = draft.loaded["schedules"][name]
    key, payload = options.get("key", ""), options.get("payload", {})
    routes = HandlerRoutes(
        handlers,
        patterns=tuple(draft.queues[queue].get("handlers", ())),
        types=tuple(draft.queues[queue].get("handlers_by_type", ())),
    )
    selected = routes.index_for(key, {})
    if selected is None:
        message = f"the queue '{queue}' has {routes.no_handler_reason(key, {})}"
        at = "key" if "key" in options and routes.patterns else "exchange"
        yield ("schedules", name, at), Fault(message=message)
        return
    field = draft.queues[queue].get("order_by")
    if isinstance(field, str) and field not in payload:
        message = f"expected the field '{field}', because the queue '{queue}' is ordered by it"
        yield ("schedules", name, "payload"), Fault(message=message)
        return
    handler = handlers[selected]
    loader = handler.record_loader()
    if loader.reads != "object":
        return  # the handler gets the JSON of any payload
    try:
        errors = loader.load(pack_of_one("", key, payload)).errors
    except Outage:  # the validator of the project could not reach a server
        return
    if errors:
        where = file_and_line(handler.function).replace(f"{root}{os.sep}", "")
        takes = loader.name or "another payload"
        message = (
            f"{name_of(handler.function)}{where} takes {takes}, and the payload is not valid:"
            f" {InvalidBody(errors[0])}"
        )
        yield ("schedules", name, "payload"), Fault(message=message)
