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

    The same applies to the exceptions that the exception contains, and to its causes. If no frame
    is in the user's code, all frames are kept: then they are the only hint.
    """
    to_do: list[TracebackException | None] = [error]
    done = set[int]()
    while to_do:
        each = to_do.pop()
        if each is None or id(each) in done:
            continue
        done.add(id(each))
        for position, frame in enumerate(each.stack):
            if _is_of_user(frame):
                del each.stack[:position]
                break
        to_do += [each.__cause__, each.__context__, *(each.exceptions or ())]
    return error


def _is_of_user(frame: FrameSummary) -> bool:
    """Whether a frame is neither of feedbus, nor of Python or an installed library."""
    name = frame.filename
    if name.startswith((FEEDBUS, "<", *STANDARD_LIBRARY)):
        return False
    return not any(folder in name for folder in INSTALLED)
