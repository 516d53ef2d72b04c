"""feedbus dead: its output for a full queue, and its question."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from feedbus.cli import main

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = { type = "fanout" }
[queues.work]
exchange = "orders"
handler = "app:work"
max_length = 1
"""


def run(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=typed)


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish two messages to a queue of one: the first becomes a dead letter."""
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("publish", "orders", "--json", "{}").exit_code == 0


@pytest.mark.usefixtures("dropped")
def test_a_dead_letter_of_a_full_queue_names_the_option() -> None:
    listed = run("dead", "list").output
    assert "broker: maxlen, because the queue has reached its max_length" in listed


@pytest.mark.usefixtures("dropped")
@pytest.mark.parametrize("typed", ["", "n\n"])
def test_a_question_without_a_yes_deletes_nothing_and_names_the_option(typed: str) -> None:
    done = run("dead", "purge", "work", typed=typed)
    assert done.exit_code == 1
    assert "error: nothing was deleted, because the question was not answered" in done.output
    assert "add --yes" in done.output
    assert run("dead", "purge", "work", typed="y\n").output.endswith("1 dead letter dropped\n")
