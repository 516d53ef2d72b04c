"""`feedbus init`: the written project runs immediately, and a refused folder is not changed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from feedbus import config
from feedbus.cli import main
from feedbus.errors import UsageError
from feedbus.new_project import create
from feedbus.new_project.creation import templates
from feedbus.supervisor.watcher_options import stop_seconds
from tests.required_servers import only_if

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.fixture
def shop(tmp_path):
    return create("shop", tmp_path).folder


def run(*command, folder=None):
    done = subprocess.run(
        [*map(str, command)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def init(monkeypatch, folder, *words):
    monkeypatch.chdir(folder)
    return CliRunner().invoke(main, ["init", *words])


def test_a_new_project_has_what_its_development_and_its_deployment_need(monkeypatch, tmp_path):
    done = init(monkeypatch, tmp_path, "shop")
    assert done.exit_code == 0, done.output
    written = {str(path.relative_to(tmp_path / "shop")) for path in files(tmp_path / "shop")}
    assert {"topology.toml", "app.py", "tests/test_app.py", "pyproject.toml"} <= written
    assert {"Dockerfile", "compose.yaml", "shop.service", "README.md", ".gitignore"} <= written
    assert {"rabbitmq/rabbitmq.conf", "rabbitmq/advanced.config"} <= written
    assert all(f"  {name}" in done.output for name in written)
    assert [word in done.output for word in ("cd shop", "pytest", "feedbus up")] == [True] * 3


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_new_project_is_without_problems_and_has_a_sharded_and_a_plain_queue(shop):
    topology = config.load(shop / "topology.toml", environ={}, import_handlers=True)
    assert topology.name == "shop"
    assert {queue.name: queue.shards for queue in topology.queues.values()} == {
        "reserve": 4,
        "mail": None,
    }


def test_a_minimal_project_has_topology_handlers_and_their_test(monkeypatch, tmp_path):
    done = init(monkeypatch, tmp_path, "shop", "--minimal")
    assert done.exit_code == 0, done.output
    written = {path.name for path in files(tmp_path / "shop")}
    assert written == {"topology.toml", "app.py", "test_app.py"}
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # what else is installed here
    run(sys.executable, "-m", "pytest", "-W", "error", folder=tmp_path / "shop")


def test_no_placeholder_is_left_in_a_new_project(shop):
    assert [path for path in files(shop) if "{{" in path.read_text()] == []


def test_ruff_accepts_a_new_project(shop):
    run(BIN / "ruff", "check", "--no-cache", ".", folder=shop)
    run(BIN / "ruff", "format", "--no-cache", "--check", ".", folder=shop)


def test_the_compose_file_of_a_new_project_follows_the_compose_specification(shop):
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(BIN / "check-jsonschema", *schema, shop / "compose.yaml")


def test_the_compose_file_of_a_new_project_names_what_is_there(shop):
    services = yaml.safe_load((shop / "compose.yaml").read_text())
    feedbus, rabbitmq = services["services"]["feedbus"], services["services"]["rabbitmq"]
    assert set(feedbus["depends_on"]) <= set(services["services"])
    mounted = [volume.split(":")[0] for volume in rabbitmq["volumes"] if volume.startswith(".")]
    assert [name for name in mounted if not (shop / name).is_file()] == []
    assert len(mounted) == 3
    image = (shop / "Dockerfile").read_text()
    assert any(volume.endswith(f":{variable(image)}") for volume in feedbus["volumes"])
    copied = re.findall(r"^COPY (\S+) /app/\S+$", image, re.MULTILINE)
    assert copied
    assert [name for name in copied if not (shop / name).exists()] == []
    # What the operations process on a foreign address asks for, and what the topology reads.
    assert {"FEEDBUS_API_TOKEN", "FEEDBUS_BROKER_URL"} <= set(feedbus["environment"])


def variable(image):
    return re.search(r"FEEDBUS_VAR=(\S+)", image)[1]


def test_a_new_project_runs_on_the_images_of_the_reference_application(shop):
    def images(compose, dockerfile):
        services = yaml.safe_load(compose.read_text())["services"]
        return services["rabbitmq"]["image"], dockerfile.read_text().split("FROM ")[1].split()[0]

    own = images(ROOT / "docker-compose.yml", ROOT / "deploy/Dockerfile")
    assert images(shop / "compose.yaml", shop / "Dockerfile") == own


def test_a_deployment_waits_until_the_slowest_handler_has_ended(shop):
    topology = config.load(shop / "topology.toml", environ={})
    longest = max(stop_seconds(queue) for queue in topology.queues.values())
    unit = (shop / "shop.service").read_text()
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > longest
    assert int(re.search(r"stop_grace_period: (\d+)s", compose(shop))[1]) > longest


def compose(shop):
    return (shop / "compose.yaml").read_text()


def test_systemd_starts_a_new_project_again_until_its_servers_are_available(shop):
    unit = (shop / "shop.service").read_text()
    head = unit[: unit.index("[Service]")]
    assert "\nStartLimitIntervalSec=0\n" in head  # systemd ignores it in [Service]
    assert "\nRestart=on-failure\nRestartSec=5\n" in unit


@only_if(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
def test_systemd_accepts_the_unit_of_a_new_project(shop):
    unit = shop / "shop.service"
    program = "/opt/shop/.venv/bin/feedbus up"  # which systemd-analyze wants to find
    assert f"ExecStart={program}\n" in unit.read_text()
    unit.write_text(unit.read_text().replace(program, f"{sys.executable} -m feedbus up"))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert "shop.service" not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Shop.eu", "did you mean 'shop-eu'"),
        ("9lives", "did you mean 'lives'"),
        ("../shop", "did you mean 'shop'"),
        ("", "1 to 30 lower-case letters"),
        ("a" * 31, "1 to 30 lower-case letters"),
        ("shop-", "did you mean 'shop'"),
        ("feedbus", "the project depends on the distribution of that name"),
        ("amq", "the broker reserves names"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_and_nothing_is_written(
    monkeypatch, tmp_path, name, hint
):
    done = init(monkeypatch, tmp_path, name)
    assert done.exit_code == 1
    assert hint in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_something_in_it_is_refused_and_left_as_it_is(monkeypatch, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    done = init(monkeypatch, tmp_path, "shop")
    assert done.exit_code == 1
    assert "shop is not empty (it has mine.txt); nothing was written" in done.output
    assert [path.name for path in files(tmp_path)] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "shop").mkdir()
    assert (create("shop", tmp_path, minimal=True).folder / "app.py").exists()


def test_a_file_of_the_projects_name_is_refused(tmp_path):
    (tmp_path / "shop").write_text("mine")
    with pytest.raises(UsageError, match="shop exists and is not a folder"):
        create("shop", tmp_path)


def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write the project to .*: Not a directory"):
        create("shop", tmp_path / "file")


def test_every_template_ends_in_a_line_end_and_is_named_as_its_file():
    found = templates()
    assert "project.service" in found
    assert [name for name, text in found.items() if not text.endswith("\n")] == []


@only_if(shutil.which("git") is not None, "git is not installed")
def test_git_ignores_a_database_and_the_files_beside_it(shop):
    beside = ("", "-wal", "-shm", ".turn", ".tables.lock")
    named = [f"{folder}shop.db{each}" for folder in ("", "var/") for each in beside]
    run("git", "init", "-q", folder=shop)
    shown = subprocess.run(
        ["git", "check-ignore", *named, "app.py"],
        cwd=shop,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stdout.split() == named
