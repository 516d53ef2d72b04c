"""README.md and docs/: their code runs, their links have targets, each page is listed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib import metadata
from pathlib import Path

import click
import jsonschema_rs
import pytest

from feedbus.cli import main
from tests.pages import DOCS, PAGES, ROOT, Block, anchors, blocks, links

pytestmark = pytest.mark.processes

BLOCKS = [block for page in PAGES for block in blocks(page)]
PROJECTS = sorted({(block.page, block.project) for block in BLOCKS if block.runs})
CODE = {"python", "toml", "ini", "console", "sh", "bash"}
PYTEST = "python -m pytest -q -W error -p no:cacheprovider -p feedbus"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
EXACT = ("feedbus balance", "feedbus check", "feedbus spread")  # their numbers are always the same
EXACT_LINES = re.compile(r"\s+(keys  .* move to another shard|load  .* shards)$")  # of a plan
LONG_TIME = re.compile(r"\b\d+[dhm]\d+[hms]\b")  # a slow machine shows 1m03s where a page has 5s
SLOW_MACHINE = re.compile(r"waiting: .* is still busy after \d+ s")  # progress; no page shows it
READS = ("cat ", "curl ", "feedbus status", "feedbus dead list", "feedbus plan")
PATIENCE_SECONDS = 300  # what such a command shows may need a moment: it is repeated
NO_HANDLERS = {"docs/how-to/balance.md:13": {"app"}}  # the page only computes with a topology
SHOWN_FOLDER = "/home/ann/shop"  # what the pages print where a reader sees a folder of their own


def name_of(part: object) -> str:
    return part.relative_to(ROOT).with_suffix("").as_posix() if isinstance(part, Path) else part


def run(command: str, folder: Path) -> str:
    with tempfile.TemporaryFile("w+") as printed:  # no pipe: a supervisor would keep it open
        has_ended = True
        try:
            subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                # The environment may have feedbus installed from another folder than this one.
                env=ENVIRONMENT | {"PYTHONPATH": f"{folder}:{ROOT}"},
                stdout=printed,
                stderr=printed,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            has_ended = False
        printed.seek(0)
        text = printed.read()
    assert has_ended, f"$ {command}\ndid not end within {PATIENCE_SECONDS} s; it printed:\n{text}"
    return text


def alike(text: str, *, exact: bool) -> str:
    """Return a line as it is compared: most numbers and widths of columns differ in each run."""
    if not exact and not EXACT_LINES.match(text):
        text = LONG_TIME.sub("0s", text)
        text = re.sub(r"[0-9a-f]{8,}|\d+(\.\d+)?", "0", text)
    return re.sub(r"\s+", " ", text).strip()


def pattern(output: str, *, exact: bool) -> str:
    """Return the pattern of an output; `…` stands for anything in a line, or for any lines."""
    lines = [alike(line, exact=exact) for line in output.splitlines()]
    return "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
        for line in lines
    )


def check_session(block: Block, folder: Path) -> Path:
    """Compare a session with its output; return the folder that its last `cd` leaves it in."""
    for command, output in block.session:
        exact = command.startswith(EXACT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            shown = run(command, folder).replace(str(folder), SHOWN_FOLDER)
            lines = [line for line in shown.splitlines() if not SLOW_MACHINE.match(line)]
            got = "".join(f"{alike(line, exact=exact)}\n" for line in lines)
            if re.fullmatch(pattern(output, exact=exact), got):
                break
            if not command.startswith(READS) or time.monotonic() > deadline:
                pytest.fail(f"{block.where}: $ {command}\nexpected:\n{output}\ngot:\n{shown}")
        if moved := re.search(r"(?:^|&& )cd (\S+)$", command):
            folder /= moved[1]
    return folder


@pytest.mark.timeout(600)  # a page may start a whole system, which takes long on a busy machine
@pytest.mark.parametrize(("page", "project"), PROJECTS, ids=name_of)
def test_the_project_of_a_page_runs_from_its_first_block_to_its_last(page, project, tmp_path):
    tests, commands, folder = 0, [], tmp_path
    try:
        for block in blocks(page):
            if block.project == project and block.runs:
                if block.file is not None:
                    path = tmp_path / block.file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(block.text)
                    tests += block.text.count("\ndef test_")
                else:
                    commands += block.commands
                    folder = check_session(block, folder)
    finally:
        if any("feedbus up" in each for each in commands):
            run("feedbus down --now", folder)
    if tests and not any("pytest" in each for each in commands):
        printed = run(PYTEST, tmp_path)
        assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed
    elif not commands:
        assert ": ok, " in (printed := run("feedbus check", tmp_path)), printed


def test_every_block_of_code_is_run_or_says_why_not():
    silent = [
        block.where
        for block in BLOCKS
        if block.language in CODE and not block.runs and block.not_run is None
        if block.language != "toml"  # a part of a file: the next test
    ]
    assert silent == []


def modules_needed(block: Block) -> set[str]:
    """Return the modules that a file of a page names: in imports, or in a topology's handlers."""
    if block.language == "toml":
        return {each.partition(".")[0] for each in re.findall(r'"([\w.]+):\w+"', block.text)}
    imported: set[str] = set()
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            imported |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    return imported


def comes_with_feedbus(module: str) -> bool:
    if module in {*sys.stdlib_module_names, "feedbus", "pytest"}:  # README installs pytest
        return True
    required = [each for each in metadata.requires("feedbus") if "extra ==" not in each]
    names = {re.match(r"[\w-]+", each)[0].lower() for each in required}
    return any(each.lower() in names for each in metadata.packages_distributions().get(module, ()))


@pytest.mark.parametrize(("page", "project"), PROJECTS, ids=name_of)
def test_a_page_names_each_package_and_file_before_it_is_needed(page, project):
    """The modules of a topology's handlers may follow directly after the topology."""
    text = page.read_text().split("\n")
    files = [
        each
        for each in blocks(page)
        if each.project == project and (each.file or each.language == "python")
    ]
    for position, block in enumerate(files):
        if block.language not in {"python", "toml"}:
            continue
        needed = modules_needed(block)
        named = [each.file for each in files[: position + 1 + len(needed)] if each.file]
        given = {each.partition(".")[0] for each in named}
        foreign = {each for each in needed - given if not comes_with_feedbus(each)}
        above = "\n".join(text[: block.line])
        missing = {
            each for each in foreign if not re.search(rf"pip install [^`]*\b{each}\b", above)
        }
        assert missing <= NO_HANDLERS.get(block.where, set()), f"{block.where} needs {missing}"


def without_required(schema: object) -> object:
    if isinstance(schema, dict):
        return {name: without_required(each) for name, each in schema.items() if name != "required"}
    return [without_required(each) for each in schema] if isinstance(schema, list) else schema


def test_every_part_of_a_topology_has_only_options_that_exist():
    schema = without_required(json.loads((ROOT / "topology.schema.json").read_text()))
    for block in BLOCKS:
        if block.language == "toml" and block.file is None and block.not_run is None:
            try:
                jsonschema_rs.validate(schema, tomllib.loads(block.text))
            except (jsonschema_rs.ValidationError, tomllib.TOMLDecodeError) as error:
                pytest.fail(f"{block.where}: {error}")


def test_every_command_of_feedbus_that_a_page_shows_exists():
    for block in BLOCKS:
        if block.language in {"console", "sh", "bash"}:
            for line in block.commands:
                for part in re.findall(r"\bfeedbus ([^|;&>)]*)", line.partition(" #")[0]):
                    check_command(part.replace("…", "").split(), block)


def check_command(words: list[str], block: Block) -> None:
    context = main.make_context("feedbus", words, resilient_parsing=True)
    command: click.Command | None = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, words = command.get_command(context, words[0]), words[1:]
    assert command is not None, f"{block.where}: no such command: {words}"
    options = {name for each in command.get_params(context) for name in each.opts}
    unknown = [
        each for each in words if each.startswith("--") and each.split("=")[0] not in options
    ]
    assert not unknown or command is main, f"{block.where}: no such option: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_and_a_heading_leads_there(page):
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_navigation():
    """The home page lists the pages; the README of a folder lists those of its folder."""
    lists = [DOCS / "index.md", *DOCS.rglob("README.md")]
    listed = {
        (each.parent / link.partition("#")[0]).resolve() for each in lists for link in links(each)
    }
    assert [
        each for each in PAGES if DOCS in each.parents and each not in {lists[0], *listed}
    ] == []


@pytest.mark.parametrize("page", ["cli.md", "metrics.md", "python.md", "topology.md"])
def test_a_page_of_the_reference_is_what_the_code_says(page):
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    current = generate.generated(page)
    assert (DOCS / "reference" / page).read_text() == current, "run: python docs/generate.py"
