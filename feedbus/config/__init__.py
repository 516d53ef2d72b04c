"""Read topology.toml into a Topology, or report every problem in it."""

from __future__ import annotations

import errno
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feedbus.errors import Problem, TopologyError
from feedbus.topology import Topology

__all__ = ["APPLIED", "load", "located", "read"]

# The environment variable with the path of the applied topology: the copy of topology.toml that
# `feedbus up` or `feedbus apply` used last. The processes of the supervisor read this copy, because
# they may start while somebody edits topology.toml and its content is incomplete.
APPLIED = "FEEDBUS_APPLIED"
LARGEST_BYTES = 10_000_000  # the largest size of a topology file
# Matches the end of tomllib's error text. The groups are the line and the column; both are None if
# the error is at the end of the file.
PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def load(
    path: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    import_handlers: bool = False,
    text: str | None = None,
    connects: bool = True,
) -> Topology:
    """Read a topology file and check everything in it.

    Args:
        path: the file; relative paths in it are relative to its folder.
        environ: the environment variables: the values of ${VAR} in the file.
        import_handlers: whether to import the handlers and the other Python objects in the file,
            too, and to check that they suit the options.
        text: the content of the file, if the caller has read it already; None to read the file.
        connects: whether the caller connects to the broker or the store, or starts processes. If
            not, variables in the URLs of the broker and the store, and in the environments of
            processes, may be unset.

    Returns:
        The topology that the file declares.

    Raises:
        TopologyError: the file cannot be read, or has problems. The error lists all problems in the
            order of their lines.

    """
    from marshmallow import ValidationError

    from feedbus.config.build import build
    from feedbus.config.draft import Draft
    from feedbus.config.environment_variables import expand
    from feedbus.config.option_combinations import check
    from feedbus.config.options import DECLARATION
    from feedbus.config.problems import Report
    from feedbus.config.syntax_errors import report_unquoted
    from feedbus.config.table_types import load_table, spread

    if text is None:
        text = read(_applied(path, environ))
    written = _parse(path, text)
    report = Report(str(path), text, written, written=written)
    expanded = expand(dict(written), environ, report, connects=connects)
    report.document = expanded
    report_unquoted(expanded, report)
    try:
        loaded: Mapping[str, Any] = load_table(DECLARATION, expanded)
    except ValidationError as error:
        spread(error.messages, report)
        loaded = error.valid_data if isinstance(error.valid_data, dict) else {}
    draft = Draft(loaded, report)
    check(draft)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would follow links
    if import_handlers:
        from feedbus.config.handler_imports import check_imports

        check_imports(draft, absolute.parent)
    if report.faults:
        raise TopologyError(report.problems())
    return build(draft, absolute)


def located(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the path of the topology file.

    The result is the given path. If no path is given, it is the path in the variable
    FEEDBUS_TOPOLOGY or, if this variable is not set, topology.toml in the current folder.

    Args:
        path: the path that the user gave, or None.
        environ: the environment variables.

    """
    return Path(path or environ.get("FEEDBUS_TOPOLOGY") or "topology.toml")


def _applied(path: Path, environ: Mapping[str, str]) -> Path:
    """Return the file to read: the topology file itself, or the copy that was applied last.

    `feedbus up` and `feedbus apply` make the copy. A process that the supervisor has started reads
    the copy, if `path` is the topology file of the supervisor and the copy can be read.

    Args:
        path: the topology file.
        environ: the environment variables. The supervisor sets APPLIED, the path of the copy, and
            FEEDBUS_TOPOLOGY, the path of its topology file.

    """
    copy = environ.get(APPLIED)
    if not copy or environ.get("FEEDBUS_TOPOLOGY") != os.path.abspath(path):  # noqa: PTH100 -- as in load()
        return path
    return Path(copy) if os.access(copy, os.R_OK) else path


def read(path: Path) -> str:
    """Return the text of a topology file.

    Raises:
        TopologyError: the file cannot be read, is too large, or is not UTF-8.

    """
    expected = "a topology file; use --topology or FEEDBUS_TOPOLOGY for another file"
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        create = "; `feedbus init NAME` creates a project" if error.errno == errno.ENOENT else ""
        raise _unreadable(
            path, f"cannot be read: {reason}; expected {expected}{create}", expected
        ) from None
    except ValueError:
        message = f"cannot be read: no path can contain such a character; expected {expected}"
        raise _unreadable(path, message, expected) from None
    if len(body) > LARGEST_BYTES:
        raise _unreadable(path, f"expected at most {LARGEST_BYTES:,} bytes, got more", expected)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode("utf-8-sig")
        message = f"expected UTF-8, got the byte 0x{body[error.start]:02x}"
        raise _unreadable(path, message, "UTF-8", before) from None


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    """Return the values of a TOML text.

    Raises:
        TopologyError: the text is not TOML; the error has the position of the first syntax error.

    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _unreadable(
            path, "too deeply nested: expected fewer brackets within brackets", "less depth"
        ) from None
    except ValueError as error:
        from feedbus.config.syntax_errors import problem_of

        matched = PLACE.search(str(error))
        place = 1, 1
        if matched and matched[1]:
            place = int(matched[1]), int(matched[2])
        elif matched:
            place = _end_of(text)
        problem = problem_of(str(path), text, place, PLACE.sub("", str(error)))
        raise TopologyError([problem]) from None


def _unreadable(path: Path, message: str, expected: str, before: str = "") -> TopologyError:
    """Return the error for a file that cannot be read or parsed.

    Args:
        path: the file.
        message: the text of the problem.
        expected: what was expected.
        before: the text of the file before the problem, from which the position of the problem is
            computed.

    """
    line, column = _end_of(before)
    return TopologyError([Problem(str(path), line, column, "", "", message, expected=expected)])


def _end_of(text: str) -> tuple[int, int]:
    """Return the line and the column after the last character of a text, from 1."""
    return text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1
