"""README.md shows the files that feedbus creates; tests/test_pages.py runs its commands."""

from __future__ import annotations

from pathlib import Path

from feedbus.new_project import create

ROOT = Path(__file__).parents[1]


def test_the_files_of_a_new_project_are_shown_as_they_are(tmp_path):
    folder = create("shop", tmp_path).folder
    page = (ROOT / "README.md").read_text()
    for name, language in (("topology.toml", "toml"), ("app.py", "python")):
        assert f"```{language}\n# shop/{name}\n{(folder / name).read_text()}```" in page


def test_the_topology_of_the_application_is_shown_as_it_is():
    page = (ROOT / "docs/reference-application.md").read_text()
    assert f"```toml\n{(ROOT / 'topology.toml').read_text()}```" in page
