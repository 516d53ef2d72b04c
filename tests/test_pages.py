"""README.md and docs/: their projects run, their links lead somewhere, each page is listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, anchors, blocks, links, write_project

PROJECTS = sorted(
    {(block.page, block.project) for page in PAGES for block in blocks(page) if block.file}
)
ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
PYTEST = ["pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "feedbus"]


def name_of(part: object) -> str:
    return part.relative_to(ROOT).with_suffix("").as_posix() if isinstance(part, Path) else part


@pytest.mark.parametrize(("page", "project"), PROJECTS, ids=name_of)
def test_a_project_of_a_page_and_its_tests_run_in_an_empty_folder(page, project, tmp_path):
    names = write_project(page, project, tmp_path)
    tests = sum((tmp_path / each).read_text().count("\ndef test_") for each in names)
    command = PYTEST if tests else ["feedbus", "check"]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert tests == 0 or " passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_and_a_heading_leads_there(page):
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
