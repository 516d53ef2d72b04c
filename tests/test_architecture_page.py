"""The modules that the pages about the code name exist."""

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
