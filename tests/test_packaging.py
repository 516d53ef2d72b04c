"""The wheel: its requirements are complete, and users' programs get its types."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import feedbus

pytestmark = pytest.mark.processes

PROJECT = Path(__file__).parents[1]
USER_PROJECT = PROJECT / "tests" / "typed_project"
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
# Extras, what loads the plugin itself, and what only type checkers import.
OPTIONAL = {"psycopg2-binary", "pydantic", "pytest", "sqlalchemy", "typing-extensions"}
TEMPLATES = "from feedbus.new_project.creation import templates; print(templates())"

LOADED = {"tzdata"}  # by zoneinfo, where the system has no time zones


def imported(folder):
    """Return the distributions that the modules of a folder import."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    homes = metadata.packages_distributions()
    foreign = names - set(sys.stdlib_module_names) - {"feedbus"}
    return {canonicalize_name(homes[name][0]) for name in foreign}


def closure(requirements):
    """Return the distributions that these requirements install, without extras."""
    found, left = {}, [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and name not in found:
            found[name] = metadata.distribution(name)
            left += [Requirement(text) for text in found[name].requires or ()]
    return found.values()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the wheel where nothing is but what it requires, and pytest; return that Python."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=PROJECT)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps")
    run(*pip, "--no-index", wheel)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    for distribution in closure([*DECLARED["dependencies"], "pytest"]):
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (packages / name).symlink_to(distribution.locate_file(name))
    return python


def run(*command, folder=None):
    """Run a command and return what it printed, or fail with it."""
    done = attempt(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(*command, folder=None):
    """Run a command outside this project and return how it ended."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_requires_what_the_framework_imports_and_nothing_else():
    declared = {canonicalize_name(Requirement(each).name) for each in DECLARED["dependencies"]}
    assert imported(PROJECT / "feedbus") - OPTIONAL == declared - LOADED


def test_the_wheel_alone_checks_a_project(installed, tmp_path):
    for name in ("topology.toml", "shop.py"):
        (tmp_path / name).write_text((USER_PROJECT / name).read_text())
    assert "ok" in run(installed.with_name("feedbus"), "check", folder=tmp_path)
    where = "import feedbus, sys; print(feedbus.__file__.startswith(sys.prefix))"
    assert run(installed, "-c", where, folder=tmp_path) == "True\n"


def test_the_wheel_alone_makes_a_project_that_passes_its_check_and_its_tests(installed, tmp_path):
    feedbus = installed.with_name("feedbus")
    assert "feedbus up" in run(feedbus, "init", "shop", folder=tmp_path)
    assert "topology.toml: ok" in run(feedbus, "check", folder=tmp_path / "shop")
    assert "2 passed" in run(installed, "-m", "pytest", "-W", "error", folder=tmp_path / "shop")
    packaged = run(installed, "-c", TEMPLATES, folder=tmp_path)
    assert packaged == run(sys.executable, "-c", TEMPLATES, folder=PROJECT)


def test_no_text_of_the_wheel_names_a_file_that_is_only_in_the_repository():
    """A text that users read names a command, or a page of the documentation by its title."""
    files = (PROJECT / "feedbus").rglob("*")
    found = [
        f"{path.relative_to(PROJECT)}: {text}"
        for path in files
        if path.suffix in {".py", ".yml", ".html", ".template", ".conf", ".config"}
        for text in texts(path)
        if re.search(r"(?<![\w./-])(docs|deploy|servers|bench|tests/data)/\w", text)
    ]
    assert found == []


def texts(path):
    """Yield what users can read: without comments, and without docstrings except those of help."""
    if path.suffix != ".py":
        yield from path.read_text().splitlines()
        return
    module = ast.parse(path.read_text())
    hidden = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_help = isinstance(node, ast.FunctionDef) and node.decorator_list
            if node.body and isinstance(node.body[0], ast.Expr) and not is_help:
                hidden.add(node.body[0].value)
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in hidden:
            yield node.value


def test_a_driver_that_is_not_installed_is_named_with_its_extra(installed, tmp_path):
    store = '[store]\nurl = "postgresql://u:secret@localhost/shop"\n'
    (tmp_path / "topology.toml").write_text('name = "shop"\n' + store)
    done = attempt(installed.with_name("feedbus"), "check", folder=tmp_path)
    assert done.returncode != 0
    assert "topology.toml:3:7: [store] url: expected the driver psycopg2" in done.stdout
    assert "pip install 'feedbus[postgres]'" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_a_store_that_is_not_installed_is_named_with_its_extra(installed, tmp_path):
    for name in ("topology.toml", "shop.py"):
        (tmp_path / name).write_text((USER_PROJECT / name).read_text())
    with (tmp_path / "topology.toml").open("a") as file:
        file.write('[store]\nadapter = "sqlalchemy"\nengine = "shop:engine"\n')
    with (tmp_path / "shop.py").open("a") as file:
        file.write("engine = None\n")
    done = attempt(installed.with_name("feedbus"), "run", "mail", folder=tmp_path)
    assert done.returncode != 0
    assert "pip install 'feedbus[sqlalchemy]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_users_programs_are_typed_in_strict_mode(installed, tmp_path):
    run(installed.with_name("feedbus"), "init", "made", "--minimal", folder=tmp_path)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed)
    mypy += ("--no-error-summary", "--cache-dir", os.devnull)
    programs = [*sorted(USER_PROJECT.glob("*.py")), *(tmp_path / "made").glob("*.py")]
    assert run(*mypy, *programs, folder=USER_PROJECT) == ""


def test_the_version_is_the_newest_of_the_changelog_and_of_what_names_it():
    version = feedbus.__version__
    changes = (PROJECT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert newest[1] == version
    assert f"image: &image feedbus:{version} " in (PROJECT / "docker-compose.yml").read_text()
    for wheel in re.findall(r"feedbus-\S+\.whl", (PROJECT / "README.md").read_text()):
        assert wheel == f"feedbus-{version}-py3-none-any.whl"
