"""Replace ${VAR} and ${VAR:-default} in every text of a document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault, Report

MARK = re.compile(r"\$\$|\$\{([^}]*)(\}?)")
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expand(value: Any, environ: Mapping[str, str], report: Report, path: KeyPath = ()) -> Any:
    """Return a value with its variables replaced; report variables that are not set.

    As in a shell, ${VAR:-default} takes its default when VAR is unset or empty; $$ is a dollar.
    """
    if isinstance(value, dict):
        return {key: expand(item, environ, report, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environ, report, (*path, at)) for at, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value
    faults: list[Fault] = []
    expanded = MARK.sub(lambda mark: _replace(mark, environ, faults), value)
    for fault in faults:
        report.add(path, fault)
    if faults:
        report.blocked.add(path)
    return expanded


def _replace(mark: re.Match[str], environ: Mapping[str, str], faults: list[Fault]) -> str:
    if mark.group() == "$$":
        return "$"
    variable = VARIABLE.fullmatch(mark[1])
    if not (variable and mark[2]):
        faults.append(
            Fault(
                expected="${NAME} or ${NAME:-default} ($$ for a dollar)",
                got="another text after '${'",  # which may be part of a password
            )
        )
        return ""
    name, default = variable.groups()
    found = environ.get(name)
    if default is not None:
        return found or default
    if found is None:
        faults.append(
            Fault(
                message=f"variable {name} is not set and has no default",
                expected=f"{name} in the environment, or ${{{name}:-default}}",
                got="nothing",
            )
        )
        return ""
    return found
