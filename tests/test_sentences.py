"""The sentences of the pages for users are short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import DOCS, ROOT, sentences

MOST_WORDS = 35
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "concepts").glob("*.md")),
    *sorted((DOCS / "how-to").glob("*.md")),
    *sorted((DOCS / "reference").glob("*.md")),
    DOCS / "internals" / "architecture.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_sentence_for_users_is_longer_than_35_words(page: Path) -> None:
    """Longer sentences are hard to read in a second language."""
    assert [each for each in sentences(page) if len(each.split()) > MOST_WORDS] == []


def test_a_sentence_ends_at_its_last_sign_and_a_code_block_is_none(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\nOne is [here](there.md). Two\nis here:\n\n"
        "```sh\nrun it. now\n```\n\n| a | b. c |\n"
    )
    found = [each for each in sentences(page) if each]
    assert found == ["# Title", "One is here.", "Two is here:", "a", "b.", "c"]
