"""Migrations: forward and back, by many processes at once, to the tables that the models say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from playhouse.schema_diff import diff_models

from feedbus.errors import Outage
from feedbus.store.peewee import PeeweeStore, bind, close_bound, database
from servers.ports import free_port
from store import cli, migrations, moments, queries
from store.models import MODELS
from tests.projects import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
ALL = ["0001_initial", "0002_deletions", "0003_logins"]
TABLES = {
    "deleted_tweet",
    "deleted_user",
    "email_notification",
    "feed",
    "follower",
    "schema_migration",
    "sms_notification",
    "tweet",
    "users",
}


def tables(url: str) -> set[str]:
    found = set(bind(PeeweeStore(url)).database.get_tables())
    close_bound()
    return found


def test_migrating_creates_every_table_and_a_second_time_does_nothing(empty_store_url):
    assert migrations.forward(empty_store_url) == ALL
    assert migrations.forward(empty_store_url) == []
    assert tables(empty_store_url) == TABLES


def test_migrating_back_leaves_nothing_but_the_history_and_forward_works_again(empty_store_url):
    migrations.forward(empty_store_url)
    assert migrations.back(empty_store_url, "0001_initial") == ALL[::-1]
    assert tables(empty_store_url) == {"schema_migration"}
    assert migrations.back(empty_store_url) == []
    migrations.migrate(SimpleNamespace(store_url=empty_store_url))
    assert tables(empty_store_url) == TABLES


def test_the_tables_are_those_of_the_models(store_url):
    found = diff_models(database.obj, MODELS)
    assert not found, str(found)


def test_numbers_and_ids_have_64_bits(store_url):
    user = queries.create_user("ann")
    tweet = {"id": 2**63 - 1, "author_id": user, "text": "far", "created_at": moments.EPOCH}
    assert queries.ensure_tweets([tweet]) == {2**63 - 1}
    queries.add_feed_entries({2**63 - 1: [user]})
    assert queries.read_feed(user, 1) == [2**63 - 1]


def test_processes_that_start_at_once_migrate_once(empty_store_url):
    program = f"from store import migrations; print(migrations.forward({empty_store_url!r}))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    reported = [process.communicate(timeout=PATIENCE_SECONDS) for process in running]
    assert [process.returncode for process in running] == [0] * 4, reported
    assert sorted(out for out, _ in reported) == [f"{ALL}\n"] + ["[]\n"] * 3
    assert tables(empty_store_url) == TABLES


def test_a_migration_that_fails_leaves_nothing_of_itself(empty_store_url, tmp_path, monkeypatch):
    folder = tmp_path / "migrations"
    folder.mkdir()
    shutil.copy(migrations.FOLDER / "0001_initial.py", folder)
    (folder / "0002_broken.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE half (id integer)')\n"
        "    db.execute_sql('SELECT nonsense FROM half')\n"
    )
    monkeypatch.setattr(migrations, "FOLDER", folder)
    with pytest.raises(migrations.CannotMigrate, match="nonsense"):
        migrations.forward(empty_store_url)
    assert tables(empty_store_url) == TABLES - {"deleted_tweet", "deleted_user"}
    assert [bool(step.applied) for step in migrations.steps(empty_store_url)] == [True, False]


def test_an_unknown_migration_is_reported_in_words(empty_store_url):
    with pytest.raises(migrations.CannotMigrate, match="nowhere"):
        migrations.forward(empty_store_url, "nowhere")


def test_a_store_that_is_away_is_an_outage():
    with pytest.raises(Outage, match="refused"):
        migrations.forward(f"postgresql://feedbus@127.0.0.1:{free_port()}/x")


def run_command(url: str, *words: str, answer: str = ""):
    topology = SimpleNamespace(store_url=url)
    context = SimpleNamespace(load=lambda: topology)
    return CliRunner().invoke(cli.migrate, words, obj=context, input=answer)


def test_the_command_goes_forward_and_back_and_lists(empty_store_url):
    assert run_command(empty_store_url).output == "".join(f"applied {each}\n" for each in ALL)
    assert run_command(empty_store_url, "up").output == "nothing to do\n"
    assert run_command(empty_store_url, "status").output.startswith("0001_initial  20")
    assert run_command(empty_store_url, "down", "--yes").output == f"reverted {ALL[-1]}\n"
    lines = run_command(empty_store_url, "status").output.splitlines()
    assert [line.endswith("pending") for line in lines] == [False, False, True]


def test_the_command_asks_before_it_drops_tables(empty_store_url):
    run_command(empty_store_url)
    refused = run_command(empty_store_url, "down", answer="n\n")
    assert (refused.exit_code, refused.stderr) == (1, "nothing was changed\n")
    assert tables(empty_store_url) == TABLES


def test_logins_of_before_are_migrated_unless_they_would_meet(empty_store_url):
    migrations.forward(empty_store_url, "0002_deletions")
    bind(PeeweeStore(empty_store_url))
    ids = [queries.create_user(each) for each in ("zoe\u0308", "n\u0303u", "ñu", "ann", "o\u0308")]
    close_bound()
    assert migrations.forward(empty_store_url) == ["0003_logins"]
    bind(PeeweeStore(empty_store_url))
    found = [queries.login_of(each) for each in ids]
    close_bound()
    assert found == ["zo\u00eb", "n\u0303u", "ñu", "ann", "ö"]
    assert migrations.back(empty_store_url) == ["0003_logins"]
