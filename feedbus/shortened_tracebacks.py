"""Remove feedbus's own calls from the beginning and the end of a traceback."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from traceback import TracebackException
from types import TracebackType

from feedbus.errors import UnexpectedResult

FEEDBUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")  # noqa: PTH118, PTH120, PTH100 -- file names of frames are texts
STANDARD_LIBRARY = tuple(
    os.path.join(sysconfig.get_path(name), "")  # noqa: PTH118 -- as above
    for name in ("stdlib", "platstdlib")
)
INSTALLED = ("/site-packages/", "/dist-packages/")  # folders of installed libraries


def user_traceback(error: BaseException) -> TracebackType | None:
    """Return the calls of an exception's traceback that a user needs; None if there are none.

    Logs and dead letters use it, so they begin with the code of the project: the calls before the
    first call of the user's code are removed. If feedbus defines the class of the exception, the
    calls of feedbus after the last call of the user's code are removed, too. If no call is in the
    user's code, all calls are returned. Only for UnexpectedResult, the result is then None: its
    text names the file and line of the handler.
    """
    calls: list[TracebackType] = []
    call = error.__traceback__
    while call is not None:
        calls.append(call)
        call = call.tb_next
    kept = _kept([each.tb_frame.f_code.co_filename for each in calls], error)
    shown = None
    for each in reversed(calls[kept]):
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return shown


def user_line(error: BaseException) -> str:
    """Return "FILE:LINE" of the last call of the user's code in a traceback, or "".

    This is the line of the project that has caused the exception.
    """
    place, call = "", error.__traceback__
    while call is not None:
        file = call.tb_frame.f_code.co_filename
        if is_of_user(file):
            place = f"{file}:{call.tb_lineno}"
        call = call.tb_next
    return place


def shortened_traceback(error: BaseException) -> TracebackException:
    """Return an exception with its traceback for printing, with the calls of user_traceback().

    The tracebacks of the causes of the exception, and of the exceptions in an exception group, are
    shortened in the same way.
    """
    shown = TracebackException.from_exception(error)
    to_do: list[tuple[TracebackException | None, BaseException | None]] = [(shown, error)]
    seen_ids = set[int]()
    while to_do:
        each, raised = to_do.pop()
        if each is None or raised is None or id(each) in seen_ids:
            continue
        seen_ids.add(id(each))
        kept = _kept([frame.filename for frame in each.stack], raised)
        each.stack[:] = each.stack[kept]
        to_do += [(each.__cause__, raised.__cause__), (each.__context__, raised.__context__)]
        if isinstance(raised, BaseExceptionGroup):
            to_do += zip(each.exceptions or (), raised.exceptions, strict=False)
    return shown


def _kept(files: Sequence[str], error: BaseException) -> slice:
    """Return which calls of a traceback are shown.

    Args:
        files: the file of each call, the outermost call first.
        error: the exception.

    """
    start = next((number for number, file in enumerate(files) if is_of_user(file)), None)
    if start is None:  # the text of UnexpectedResult names the file and line of the handler
        return slice(0, 0 if isinstance(error, UnexpectedResult) else len(files))
    stop = len(files)
    if type(error).__module__.partition(".")[0] == "feedbus":
        while files[stop - 1].startswith(FEEDBUS):
            stop -= 1
    return slice(start, stop)


def is_of_user(file: str) -> bool:
    """Whether a file does not belong to feedbus, Python or an installed library."""
    if file.startswith((FEEDBUS, "<", *STANDARD_LIBRARY)):
        return False
    return not any(folder in file for folder in INSTALLED)
