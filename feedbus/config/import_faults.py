"""Make faults of errors that the import of a Python object raised."""

from __future__ import annotations

import os
from pathlib import Path

from feedbus.config.problems import Fault
from feedbus.errors import UsageError
from feedbus.handling.annotations import Unfit
from feedbus.handling.imported_objects import BrokenModule


def import_fault(error: UsageError, expected: str, root: Path, suggestion: str = "") -> Fault:
    """Return the fault of a dotted name whose object cannot be imported or is not suitable.

    Several names in topology.toml can refer to a module that cannot be imported. Their faults get
    the same cause, so only the first of them is reported.

    Args:
        error: the error that the import, or a check of the object, raised.
        expected: what the name should refer to.
        root: the folder of the topology; it is left out of the paths in the fault.
        suggestion: an existing dotted name that is similar; "" if there is none.

    """
    message = str(error).replace(f"{root}{os.sep}", "")
    if isinstance(error, Unfit):
        cause = message if error.at_import else ""
        return Fault(message=message, expected=error.expected, got=error.got, cause=cause)
    cause = error.error if isinstance(error, BrokenModule) else ""
    return Fault(message=message, expected=expected, suggestion=suggestion, cause=cause)
