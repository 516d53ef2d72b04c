"""Replace ${VAR} and ${VAR:-default} in every text of a document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault, Report

# The options with addresses and secrets of other systems. Only commands that connect to these
# systems need the values.
CONNECTIONS = (
    *(("broker", "url"), ("broker", "management"), ("store", "url")),
    ("processes", None, "environment", None),
)
MARK = re.compile(r"\$\$|\$\{([^}]*)(\}?)")
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expand(
    value: Any,
    environ: Mapping[str, str],
    report: Report,
    path: KeyPath = (),
    *,
    connects: bool = True,
) -> Any:
    """Return a value with its variables replaced; report variables that are not set.

    As in a shell, ${VAR:-default} takes its default when VAR is unset or empty; $$ is a dollar.

    Args:
        value: a part of the document.
        environ: the values of the variables.
        report: gets the faults.
        path: the path of the value in the document.
        connects: False if variables in the CONNECTIONS options may be unset. The value of such an
            option is then unknown.

    """
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        pairs = [
            (key, expand(item, environ, report, (*path, key), connects=connects))
            for key, item in items
        ]
        return dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]
    if not isinstance(value, str) or "$" not in value:
        return value
    faults: list[Fault] = []
    unset: list[Fault] = []
    expanded = MARK.sub(lambda mark: _replace(mark, environ, faults, unset), value)
    needed = unset if connects or not any(_like(path, each) for each in CONNECTIONS) else []
    for fault in faults + needed:
        report.add(path, fault)
    if faults or unset:
        report.blocked.add(path)
    # With an unset variable, the rest of the value could be the address of another system.
    return "" if unset else expanded


def _like(path: KeyPath, pattern: Sequence[str | None]) -> bool:
    """Whether a path matches a pattern, in which None stands for any key."""
    return len(path) == len(pattern) and all(
        want is None or want == key for key, want in zip(path, pattern, strict=True)
    )


def _replace(
    mark: re.Match[str], environ: Mapping[str, str], faults: list[Fault], unset: list[Fault]
) -> str:
    """Return the value of a variable, or record that it is wrong or not set."""
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
        unset.append(
            Fault(
                message=f"variable {name} is not set and has no default",
                expected=f"{name} in the environment, or ${{{name}:-default}}",
                got="nothing",
            )
        )
        return ""
    return found
