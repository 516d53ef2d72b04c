"""Replace ${VAR} and ${VAR:-default} in every text of a topology file by environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault, Report

# The paths of options with addresses and secrets of other systems; None stands for any key. Only
# commands that connect to the broker or the store, or start processes, need the values.
CONNECTIONS = (
    *(("broker", "url"), ("broker", "management"), ("store", "url")),
    ("processes", None, "environment", None),
)
# Matches a variable with its braces, a variable without the closing brace, or $$.
MARK = re.compile(r"\$\$|\$\{([^}]*)(\}?)")
# Matches the text between the braces: NAME or NAME:-default.
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
        value: the parsed values of topology.toml, or a part of them.
        environ: the values of the variables.
        report: gets a fault for each variable that is not set, or not written correctly.
        path: the path of the value in the file: keys and indexes.
        connects: False if variables in the URLs of the broker and the store, and in the
            environments of processes, may be unset. An option with an unset variable gets the value
            "", and faults that later checks find there are ignored.

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
    # If one variable in a value is unset, the whole value becomes "". The rest of the text could be
    # the valid address of another system.
    return "" if unset else expanded


def names_in(text: str) -> list[str]:
    """Return the names of the variables in a text of a topology file, in their order."""
    inner = (mark[1] for mark in MARK.finditer(text) if mark[1])
    return [variable[1] for each in inner if (variable := VARIABLE.fullmatch(each))]


def _like(path: KeyPath, pattern: Sequence[str | None]) -> bool:
    """Whether a path matches a pattern, in which None stands for any key."""
    return len(path) == len(pattern) and all(
        want is None or want == key for key, want in zip(path, pattern, strict=True)
    )


def _replace(
    mark: re.Match[str], environ: Mapping[str, str], faults: list[Fault], unset: list[Fault]
) -> str:
    """Return the text that replaces a variable such as ${VAR}; "" if it is wrong or not set.

    Args:
        mark: the variable as a match of MARK. `$$` is a match, too; it is replaced by a dollar.
        environ: the values of the variables.
        faults: gets a fault if the variable is not written correctly.
        unset: gets a fault if the variable has no value and no default.

    """
    if mark.group() == "$$":
        return "$"
    variable = VARIABLE.fullmatch(mark[1])
    if not (variable and mark[2]):
        faults.append(
            Fault(
                expected="${NAME} or ${NAME:-default} ($$ for a dollar)",
                got="another text after '${'",  # the other text may be part of a password
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
