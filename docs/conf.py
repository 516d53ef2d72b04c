"""How Sphinx builds the pages: `make docs`. docs/index.md is the home page and the navigation."""

from __future__ import annotations

import importlib.metadata
import re

from sphinx.application import Sphinx

project = "feedbus"
author = "feedbus contributors"
release = importlib.metadata.version("feedbus")
extensions = ["myst_parser"]
exclude_patterns = ["conf.py", "generate.py"]
html_theme = "furo"
html_title = f"feedbus {release}"
html_copy_source = False
myst_heading_anchors = 5  # the anchors that GitHub gives to headings
nitpicky = True


def add_navigation(_: Sphinx, docname: str, source: list[str]) -> None:
    """Append a table of contents for each section of a page that lists others."""
    if docname == "index" or docname.endswith("/README"):
        for section in re.split(r"^## ", source[0], flags=re.MULTILINE):
            caption = section.partition("\n")[0].lstrip("# ")
            entries = "\n".join(re.findall(r"^[-|].*?\]\(([\w/-]+)\.md\)", section, re.MULTILINE))
            if entries:
                table = f":hidden:\n:caption: {caption}\n\n{entries}"
                source[0] += f"\n```{{toctree}}\n{table}\n```\n"


def setup(app: Sphinx) -> None:
    """Register the navigation."""
    app.connect("source-read", add_navigation)
