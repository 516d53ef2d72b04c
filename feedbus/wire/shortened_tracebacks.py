"""Remove feedbus's own calls from the beginning of a traceback."""

from __future__ import annotations

import os
import sysconfig
from traceback import FrameSummary, TracebackException

FEEDBUS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")  # noqa: PTH118, PTH120, PTH100 -- file names of frames are texts
STANDARD_LIBRARY = tuple(
    os.path.join(sysconfig.get_path(name), "")  # noqa: PTH118 -- as above
    for name in ("stdlib", "platstdlib")
)
INSTALLED = ("/site-packages/", "/dist-packages/")  # folders of installed libraries


def from_user_code(error: TracebackException) -> TracebackException:
    """Remove the frames before the first frame of the user's code, and return the same object.

    The frames of the causes of the exception, and of the exceptions in an exception group, are
    removed in the same way. If no frame of an exception is in the user's code, all its frames are
    kept: they are the only hint.
    """
    to_do: list[TracebackException | None] = [error]
    seen_ids = set[int]()
    while to_do:
        each = to_do.pop()
        if each is None or id(each) in seen_ids:
            continue
        seen_ids.add(id(each))
        for position, frame in enumerate(each.stack):
            if _is_of_user(frame):
                del each.stack[:position]
                break
        to_do += [each.__cause__, each.__context__, *(each.exceptions or ())]
    return error


def _is_of_user(frame: FrameSummary) -> bool:
    """Whether a frame is not in the code of feedbus, Python or an installed library."""
    name = frame.filename
    if name.startswith((FEEDBUS, "<", *STANDARD_LIBRARY)):
        return False
    return not any(folder in name for folder in INSTALLED)
