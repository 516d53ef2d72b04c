"""The content of the documentation pages: code blocks, sessions, links and headings.

A fenced block is one of these:

- a file: its first line is a comment with its path, `# shop/app.py`. The files of one folder are
  a project; files without a folder belong to the project of the page.
- a session, in the language `console`: lines that begin with `$ ` are commands, the others are
  their output. It runs in the project of the nearest file above it, as it is at that point.
- anything else. `<!-- not run: REASON -->` in the line above says why no test runs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?"
    r"(?P<fence>```+)(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# (?:(?P<project>[\w-]+)/)?(?P<name>[\w.-]+(?:/[\w.-]+)*)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    project: str  # the folder of the nearest file, this one included
    file: str | None  # its path within the project, if it is a file
    not_run: str | None  # the reason that the page gives

    @property
    def where(self) -> str:
        """Return the page and the line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether a test writes or runs it."""
        return self.not_run is None and (self.file is not None or self.language == "console")

    @property
    def session(self) -> list[tuple[str, str]]:
        """Return the commands of a session, each with its output."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        found = []
        for part in parts:
            command = re.match(r"(?:.*\\\n)*.*\n", part)[0]
            found.append((command.rstrip("\n"), part[len(command) :]))
        return found

    @property
    def commands(self) -> list[str]:
        """Return the commands of a session or a script."""
        if self.language == "console":
            return [command for command, _ in self.session]
        text = re.sub(r"\\\n\s*", "", self.text)
        return [line for line in text.splitlines() if line and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text, found, project = page.read_text(), [], ""
    for match in _BLOCK.finditer(text):
        file = None
        if named := _FILE.match(match["text"]):
            folder, file = named["project"] or "", named["name"]
            if "." not in file.rpartition("/")[2] and file != "Dockerfile":
                file = None
            else:
                project = folder
        line = text.count("\n", 0, match.start("fence")) + 1
        found.append(
            Block(page, line, match["language"], match["text"], project, file, match["reason"])
        )
    return found


def slug(heading: str) -> str:
    """Return the anchor that GitHub and MyST give to a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def prose(page: Path) -> str:
    """Return the text of a page without its code blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _BLOCK.sub("", page.read_text()), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    return {slug(each) for each in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


def links(page: Path) -> list[str]:
    """Return the targets of a page's links to files and headings of the project."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [each for each in found if "://" not in each and not each.startswith("mailto:")]


def sentences(page: Path) -> list[str]:
    """Return the sentences of a page, without its code blocks; a cell of a table is a paragraph."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose(page))  # a link without its target
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-|]|\d+\.) ?)|\|", text)
    return [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?:;])\s+", " ".join(paragraph.split()))
    ]
