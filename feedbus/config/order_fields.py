"""Check that the messages of a queue have the field that `order_by` names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from feedbus.config.draft import Draft, Faults
from feedbus.config.problems import NAMES_SHOWN, Fault
from feedbus.errors import UsageError
from feedbus.handling.annotations import file_and_line, name_of
from feedbus.handling.handlers import Handler
from feedbus.name_list import listed, nearest


def check_order_field(draft: Draft, queue: str, handlers: Iterable[Handler], root: Path) -> Faults:
    """Yield a fault for each handler whose message type lacks the field that `order_by` names.

    Without this field, every message of the type would become a dead letter.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        handlers: the handlers of the queue that can be imported.
        root: the folder of the topology, from which modules are imported.

    Yields:
        The path of the option in topology.toml, with the fault: what is wrong.

    """
    field = draft.queues[queue].get("order_by")
    if not isinstance(field, str):
        return
    for handler in handlers:
        try:
            record_loader = handler.record_loader()
        except UsageError:  # the wrong message type is reported already
            continue
        known = record_loader.wire_fields()  # None if messages may have any other fields, too
        if known is None or field in known:
            continue
        where = file_and_line(handler.function).replace(f"{root}{os.sep}", "")
        takes = (
            f"{name_of(handler.function)}{where} takes {record_loader.name or 'a text or bytes'}"
        )
        expected = f"one of {listed(known, NAMES_SHOWN)}" if known else "true or false"
        message = f"{takes}, which has no field '{field}' in JSON: expected {expected}"
        yield (
            draft.at(queue, "order_by"),
            Fault(message=message, expected=expected, suggestion=nearest(field, known)),
        )
