"""The pages about the code: the modules that they name exist, the glossary has their terms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs/internals").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "docs/proofs.md", "docs/measurements.md")),
]
FOLDERS = ("feedbus", "handlers", "web", "store", "bench", "servers", "tests", "docs", "hooks")
MODULES = {
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_module_that_a_page_about_the_code_names_exists(page: Path) -> None:
    named = set(re.findall(r"`((?:[a-z0-9_.]+/)*[a-z0-9_]+\.py)`", page.read_text()))
    missing = {
        name for name in named if not any(f"/{each}".endswith(f"/{name}") for each in MODULES)
    }
    assert missing == set()


def test_the_table_of_the_embedded_brokers_layers_names_its_modules() -> None:
    page = (ROOT / "docs/internals/embedded-broker.md").read_text()
    section = page.partition("\n## Modules\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    named = {name for line in rows for name in re.findall(r"`(\w+)`", line)}
    modules = {path.stem for path in (ROOT / "feedbus/transports/sqlite").glob("*.py")}
    assert named == modules - {"__init__"}


TERM_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/internals").glob("*.md"))]
NO_TERMS = {
    "at-least-once",
    "declared",
    "disconnected",
    "connected",
}  # RabbitMQ's, and names of steps


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", TERM_PAGES, ids=lambda page: page.name)
def test_the_glossary_has_each_term_that_a_page_introduces_in_italics(page: Path) -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|", glossary, re.MULTILINE)
    terms = {term for row in rows for term in row.split(", ")} | {"state", "stands by"}
    italics = re.findall(r"(?<![*\w])\*([a-z][a-z -]+)\*(?![*\w])", without_code(page))
    missing = {term for term in italics if not {term, term.removesuffix("s")} & terms}
    assert missing <= NO_TERMS
