"""Log Python's warnings as events, in particular warnings about coroutines without `await`."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import TextIO

from feedbus.logs.event_log import EventLog

events = EventLog(__name__)

NEVER_AWAITED = re.compile(r"coroutine '(.+)' was never awaited")
CREATED_AT = re.compile(r'File "(.+)", line (\d+), in (.+)')
OWN_FOLDER = str(Path(__file__).parents[1])


def log_warnings() -> None:
    """Log the warnings of this process as events, and record where this thread creates coroutines.

    configure() calls the function at the start of a process.
    """
    warnings.showwarning = _log
    note_coroutines()


def note_coroutines() -> None:
    """Let Python record where this thread creates coroutines, so that warnings name the place.

    Each thread that runs handlers without `async` calls the function. Recording a place costs time.
    So the function is not called in the thread of the event loop, which creates many coroutines.
    """
    sys.set_coroutine_origin_tracking_depth(1)


def _log(  # noqa: PLR0913, PLR0917 -- the arguments of warnings.showwarning()
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning, in place of warnings.showwarning()."""
    text = str(message)
    forgotten = NEVER_AWAITED.match(text) if issubclass(category, RuntimeWarning) else None
    if forgotten is None:
        shown = warnings.formatwarning(message, category, filename, lineno, line)
        if file is not None:
            file.write(shown)
        else:
            logging.getLogger("py.warnings").warning("%s", shown.rstrip())
        return
    place, function = _place(text, filename, lineno)
    where = f" at {place}" if place else ""
    events.warning(
        "coroutine_not_awaited",
        f"a coroutine of {forgotten[1]} was created{where} and never awaited, so none of its code"
        f" has run; write 'await {forgotten[1]}(…)' in a handler with 'async def'",
        coroutine=forgotten[1],
        **({"place": place, "function": function} if place else {}),
    )


def _place(text: str, filename: str, lineno: int) -> tuple[str, str]:
    """Return where a coroutine was created, for a warning about it.

    If Python has not recorded this place, the result is the place where the coroutine was deleted.
    Usually, both are the same line. They differ if a variable contained the coroutine.

    Args:
        text: the text of the warning, with the place if Python has recorded it.
        filename: the file in which the coroutine was deleted.
        lineno: the line in which the coroutine was deleted.

    Returns:
        The place as "FILE:LINE", and the name of the function that contains this line. If Python
        has not recorded the place, and code of feedbus has deleted the coroutine, both are "". If
        only the function is not known, its name is "".

    """
    noted = CREATED_AT.findall(text)
    if noted:
        file, number, function = noted[-1]
        return f"{file}:{number}", function
    if filename.startswith(OWN_FOLDER):
        return "", ""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 -- a documented function
    while frame is not None and (frame.f_code.co_filename, frame.f_lineno) != (filename, lineno):
        frame = frame.f_back
    return f"{filename}:{lineno}", frame.f_code.co_qualname if frame is not None else ""
