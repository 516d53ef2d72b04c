"""Write the files of a new project into a new folder.

The templates are the files under `files/`. Their names end with `.template`, so that pip, test
runners and type checkers do not treat them as modules of feedbus. `{{name}}` and `{{version}}` are
replaced by the project's name and by feedbus's version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from feedbus import __version__
from feedbus.errors import UsageError

SUFFIX = ".template"
# A name that is valid for a Linux user, a systemd unit, a Compose project and a Python
# distribution.
NAME = re.compile(r"[a-z](?:[a-z0-9_-]{0,28}[a-z0-9])?")
# The description of a valid name in errors.
NAMED = (
    "1 to 30 lower-case letters, digits, '-' and '_', that begins with a letter and does not end"
    " with '-' or '_'"
)
# The names that a project cannot have, each with the reason.
TAKEN: Mapping[str, str] = {
    "amq": "the broker reserves names that begin with it",
    "feedbus": "the project depends on the distribution of that name",
}
# The templates that `feedbus init --minimal` uses, each with the path of the written file. The test
# is put into the folder of the module that it imports.
MINIMAL: Mapping[str, str] = {
    "topology.toml": "topology.toml",
    "app.py": "app.py",
    "tests/test_app.py": "test_app.py",
}


@dataclass(frozen=True, slots=True)
class Created:
    """A project that create() has written.

    Attributes:
        folder: the folder of the project.
        paths: the files relative to the folder, in the order of writing.

    """

    folder: Path
    paths: tuple[str, ...]


def create(name: str, parent: Path, *, minimal: bool = False) -> Created:
    """Write a new project into a folder that has the project's name, for `feedbus init`.

    Args:
        name: the name of the project, of its topology and of its folder.
        parent: the folder in which the project's folder is created.
        minimal: whether to write only the topology, the handlers and their test.

    Raises:
        UsageError: the name is not allowed, the folder is not empty, or a file cannot be written.

    """
    _check_name(name)
    folder = parent / name
    values = {"name": name, "version": __version__}
    texts = {path: _filled(text, values) for path, text in _chosen(name, minimal=minimal)}
    try:
        _check_empty(folder)
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
    except OSError as error:
        msg = f"cannot write the project to {error.filename or folder}: {error.strerror}"
        raise UsageError(msg) from error
    return Created(folder, tuple(texts))


def templates() -> dict[str, str]:
    """Return the text of each template of a new project, by the path of the written file.

    The paths are relative to the project's folder, and sorted. Values such as `{{name}}` are not
    replaced yet.
    """
    return dict(sorted(_templates(files("feedbus.new_project") / "files", "")))


def _templates(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each, f"{prefix}{each.name}/")
        else:
            yield prefix + each.name.removesuffix(SUFFIX), each.read_text(encoding="utf-8")


def _chosen(name: str, *, minimal: bool) -> Iterator[tuple[str, str]]:
    """Return the path and the text of each file to write; `{{name}}` is not replaced in texts yet.

    Args:
        name: the name of the project, which is part of a path.
        minimal: whether to write only the topology, the handlers and their test.

    """
    found = templates()
    if minimal:
        return ((path, found[template]) for template, path in MINIMAL.items())
    return ((path.replace("project.service", f"{name}.service"), found[path]) for path in found)


def _filled(text: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower())[:30].strip("-0123456789")
        hint = f"; did you mean '{near}'?" if NAME.fullmatch(near) else ""
        msg = f"expected a project name of {NAMED}, got '{name}'{hint}"
        raise UsageError(msg)
    if name in TAKEN:
        msg = f"the project name '{name}' cannot be used: {TAKEN[name]}; choose another name"
        raise UsageError(msg)


def _check_empty(folder: Path) -> None:
    if folder.is_dir():
        found = sorted(each.name for each in folder.iterdir())
        if found:
            msg = (
                f"{folder} is not empty (it has {found[0]}); nothing was written. Choose another"
                " name, or remove the folder"
            )
            raise UsageError(msg)
    elif folder.exists() or folder.is_symlink():
        msg = f"{folder} exists and is not a folder; nothing was written. Choose another name"
        raise UsageError(msg)
