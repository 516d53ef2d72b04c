"""Import Python objects by the dotted names of topology.toml."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from feedbus.errors import UsageError
from feedbus.handling.annotations import Unfit
from feedbus.shortened_tracebacks import is_of_user

# Maps a module to the extra that installs it.
EXTRAS = {"pydantic": "pydantic", "sqlalchemy": "sqlalchemy"}


class BrokenModule(UsageError):  # noqa: N818 -- clear without "Error"
    """A module does not exist, or cannot be imported because of an error in the code of a project.

    Attributes:
        error: the error in the code, with its file and line, as text; "" if the module does not
            exist. Modules that import the module with the error get the same text.

    """

    def __init__(self, module: str, error: BaseException, root: Path) -> None:
        """Create the error; its text names the module, and the exception with its file and line.

        Args:
            module: the dotted name of the module.
            error: the exception that the import raised.
            root: the folder of the topology; it is left out of the path of the file.

        """
        missing = isinstance(error, ModuleNotFoundError) and _is_part(error.name, module)
        reason = "there is no such module" if missing else _described(error, root)
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name in EXTRAS:
            reason += f"; install it with: pip install 'feedbus[{EXTRAS[name]}]'"
        self.error = "" if missing else reason
        super().__init__(f"cannot import {module}: {reason}")


def resolve_object(dotted: str, root: Path) -> Any:
    """Import any object, and return it.

    Args:
        dotted: "package.module:name".
        root: the folder of the topology, which is added to sys.path.

    Raises:
        BrokenModule: the module cannot be imported.
        UsageError: the name is wrong, or the object does not exist.

    """
    module_name, separator, name = dotted.partition(":")
    if not (module_name and separator and name):
        msg = f"expected 'package.module:name', got '{dotted}'"
        raise UsageError(msg)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(module_name)
    except Unfit as error:
        error.at_import = True
        raise
    except (Exception, SystemExit) as error:
        raise BrokenModule(module_name, error, root) from error
    if not hasattr(module, name):
        msg = f"the module {module_name} has no '{name}'"
        raise UsageError(msg)
    return getattr(module, name)


def _is_part(name: str | None, module: str) -> bool:
    """Whether a name is the name of a module, or of a package that contains the module."""
    return f"{module}.".startswith(f"{name}.")


def _described(error: BaseException, root: Path) -> str:
    """Return an exception with the last file and line of the user's code, as text."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.msg} ({_short(error.filename, root)}:{error.lineno})"
    if isinstance(error, SystemExit):
        text = f"the module ends the process (exit code {error.code})"
    else:
        text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if is_of_user(frame.filename)]
    return (
        f"{text} ({_short(of_user[-1].filename, root)}:{of_user[-1].lineno})" if of_user else text
    )


def _short(file: str, root: Path) -> str:
    """Return the path of a file; a file in the folder of the topology gets a relative path."""
    path = Path(file)
    return str(path.relative_to(root)) if path.is_relative_to(root) else file
