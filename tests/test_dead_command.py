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
def test_a_question_without_an_answer_deletes_nothing_and_names_the_option() -> None:
    done = run("dead", "purge", "work")
    assert done.exit_code == 1
    assert "error: nothing was deleted, because the question was not answered" in done.output
    assert "add --yes" in done.output


@pytest.mark.usefixtures("dropped")
def test_a_question_answered_with_no_deletes_nothing_and_says_so() -> None:
    done = run("dead", "purge", "work", typed="n\n")
    assert (done.exit_code, done.stderr) == (1, "nothing was deleted\n")
    assert run("dead", "purge", "work", typed="y\n").output.endswith("1 dead letter dropped\n")


MORE = """
[queues.more]
exchange = "orders"
handler = "app:work"
max_length = 2
"""


@pytest.fixture
def two_queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish five messages to two full queues: one gets four dead letters, the other three."""
    (tmp_path / "topology.toml").write_text(TOPOLOGY + MORE)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    monkeypatch.chdir(tmp_path)
    for _ in range(5):
        assert run("publish", "orders", "--json", "{}").exit_code == 0


@pytest.mark.usefixtures("two_queues")
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_the_limit_holds_for_each_queue_and_a_line_names_the_queues_with_more(
    form: tuple[str, ...],
) -> None:
    done = run("dead", "list", "--limit", "3", *form)
    shown = done.stdout.splitlines()
    assert ["work" in line for line in shown] == [True] * 3 + [False] * 3
    assert done.stderr == (
        "work has 4 dead letters, of which 3 are shown; `feedbus dead list work --limit 4` shows"
        " all\n"
    )
    done = run("dead", "list", "--limit", "4", *form)
    assert (len(done.stdout.splitlines()), done.stderr) == (7, "")


@pytest.mark.usefixtures("dropped")
@pytest.mark.parametrize("options", ["", 'order_by = "id"\nblock_on_dead = true'])
def test_a_queue_that_is_not_declared_yet_has_no_dead_letters(options: str, tmp_path: Path) -> None:
    with (tmp_path / "topology.toml").open("a") as file:
        file.write(f"{MORE}{options}\n")
    assert run("dead", "list", "more").stdout == "no dead letters\n"
    done = run("dead", "purge", "more", "--yes")
    assert (done.output, done.exit_code) == ("0 dead letters dropped\n", 0)
