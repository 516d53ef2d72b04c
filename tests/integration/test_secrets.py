"""A password is searched for in everything that the commands write, print, log and answer."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from servers.ports import free_port
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ
from tests.projects import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
SHORTEST = 6
USER = "canary"
BROKER = "Zq9/Xw?7#Kd@5;Rv%Yt:&=+L n"
STORE = "Pb4'Jc8@Hg;2%Mf/Vs?6&Tz=Qk"
SETTING = "Wn3Gy7Bx5Dr9"
WRONG = "Uh6Ej2Oa8Il4"


def windows(password: str) -> set[str]:
    """Return every part of a password that is long enough to be of use, raw and escaped."""
    forms = (password, quote(password, safe=""), quote(password))
    return {form[at : at + SHORTEST] for form in forms for at in range(len(form) - SHORTEST + 1)}


PARTS = {
    part.encode(): password
    for password in (BROKER, STORE, SETTING, WRONG)
    for part in windows(password)
}


@dataclass(slots=True)
class Commands:
    """Runs commands of the project in a folder, and keeps their output."""

    folder: Path
    environment: dict[str, str]
    written: list[tuple[str, bytes]] = field(default_factory=list)

    def run(self, *words: str, **urls: str) -> int:
        """Run a command to its end, and keep its output."""
        done = subprocess.run(
            [sys.executable, "-m", "feedbus", *words],
            cwd=self.folder,
            env=os.environ | self.environment | urls,
            capture_output=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        self.written.append((" ".join(words), done.stdout + done.stderr))
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode

    @contextmanager
    def up(self) -> Iterator[None]:
        """Run the supervisor, and keep its output."""
        log = self.folder / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "feedbus", "up"],
                cwd=self.folder,
                env=os.environ | self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(lambda: process.poll() is not None or b"ready" in log.read_bytes())
            assert process.poll() is None, log.read_text()
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()

    def keep(self) -> None:
        """Keep the command lines of all processes, and every file of the folder."""
        for found in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                self.written.append((str(found), found.read_bytes()))
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with suppress(FileNotFoundError):
                    self.written.append((str(path), path.read_bytes()))

    def fetch(self, port: int, *paths: str) -> None:
        """Keep the answers of the web process."""
        for path in paths:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
            client.request("GET", path)
            answer = client.getresponse()
            self.written.append((path, str(answer.headers).encode() + answer.read()))
            client.close()

    def leaks(self) -> list[str]:
        """Return where a part of a password was written."""
        return [
            f"{where}: a part of {password!r}"
            for where, text in self.written
            for part, password in PARTS.items()
            if part in text
        ]


@pytest.fixture(scope="module")
def guarded(rabbitmq: RabbitMQ, postgres: Postgres) -> Iterator[dict[str, str]]:
    """Make servers want passwords with every odd character; give the variables that name them."""
    put(rabbitmq, "vhosts/canary")
    put(rabbitmq, f"users/{USER}", password=BROKER, tags="monitoring")
    put(rabbitmq, f"permissions/canary/{USER}", configure=".*", write=".*", read=".*")
    quoted = STORE.replace("'", "''")
    postgres.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{quoted}'")
    postgres.sql(f"CREATE DATABASE {USER} OWNER {USER}")
    access = postgres.folder / "data" / "pg_hba.conf"
    before = access.read_text()
    access.write_text(f"host all {USER} 127.0.0.1/32 scram-sha-256\n{before}")
    postgres.sql("SELECT pg_reload_conf()")
    broker, store = (quote(password, safe="") for password in (BROKER, STORE))
    yield {
        "FEEDBUS_BROKER_URL": f"amqp://{USER}:{broker}@127.0.0.1:{rabbitmq.port}/canary",
        "FEEDBUS_DATABASE_URL": f"postgresql://{USER}:{store}@127.0.0.1:{postgres.port}/{USER}",
        "CANARY_MANAGEMENT": rabbitmq.management_url,
    }
    access.write_text(before)
    postgres.sql("SELECT pg_reload_conf()")
    postgres.sql(f"DROP DATABASE {USER} WITH (FORCE)")
    postgres.sql(f"DROP ROLE {USER}")


def put(node: RabbitMQ, path: str, **properties: str) -> None:
    """Create an object through the management API, which is faster than rabbitmqctl."""
    client = http.client.HTTPConnection("127.0.0.1", node.management_port, timeout=PATIENCE_SECONDS)
    login = b64encode(b"guest:guest").decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    client.request("PUT", f"/api/{path}", json.dumps(properties), headers)
    assert client.getresponse().status in {201, 204}
    client.close()


@pytest.fixture
def commands(tmp_path: Path, guarded: dict[str, str]) -> Commands:
    """Make a copy of the project that finds those servers."""
    for name in ("handlers", "store", "web"):
        (tmp_path / name).symlink_to(PROJECT / name)
    text = (PROJECT / "topology.toml").read_text()
    text = text.replace("[store]", 'management = "${CANARY_MANAGEMENT}"\n\n[store]')
    text = text.replace("shards   = 10", "shards   = 1").replace(
        'command = "python -m web"',
        'command = "python -m web"\nenvironment = { CANARY = "${CANARY_SETTING}" }',
    )
    (tmp_path / "topology.toml").write_text(text)
    ports = {f"FEEDBUS_{name}_PORT": str(free_port()) for name in ("HTTP", "OPERATIONS")}
    own = {"CANARY_SETTING": SETTING, "FEEDBUS_VAR": "var", **ports}
    return Commands(tmp_path, guarded | own)


def test_no_part_of_a_password_is_written_while_everything_works(commands: Commands):
    assert commands.run("check") == 0
    assert commands.run("apply", "--yes") == 0
    with commands.up():
        assert commands.run("status", "--json") == 0
        assert commands.run("publish", "publish_tweet", "--json", "{}") == 0
        wait_until(lambda: commands.run("dead", "list", "--json") == 0 and commands.written[-1][1])
        assert commands.run("plan", "--json") == 0
        assert commands.run("apply", "--yes", "--json") in {0, 2}
        port = int(commands.environment["FEEDBUS_HTTP_PORT"])
        commands.fetch(port, "/metrics", "/healthz", "/openapi.json")
        port = int(commands.environment["FEEDBUS_OPERATIONS_PORT"])
        commands.fetch(port, "/", "/metrics", "/operations.json", "/readyz")
        commands.keep()
    commands.run("down")
    commands.keep()
    assert len(commands.written) > 20
    assert commands.leaks() == []


WRONGS = {
    "wrong password": (f"amqp://{USER}:{WRONG}@127.0.0.1:{{rabbitmq}}/canary", "status"),
    "nobody there": (f"amqp://{USER}:{WRONG}@127.0.0.1:1//", "publish"),
    "no such host": (f"amqps://{USER}:{WRONG}@no-such-host.invalid//", "status"),
    "two nodes": (
        f"amqp://{USER}:{WRONG};{WRONG}@127.0.0.1:1//;amqp://{USER}:{WRONG}@127.0.0.1:2//",
        "status",
    ),
    "a slash": (f"amqp://{USER}:5/{WRONG}@127.0.0.1//", "check"),
    "a management user": (f"http://{USER}:{WRONG}@127.0.0.1:{{management}}", "plan"),
    "no management": (f"http://{USER}:{WRONG}@127.0.0.1:1", "plan"),
    "a store's password": (
        f"postgresql://{USER}:{WRONG}@127.0.0.1:{{postgres}}/{USER}",
        "migrate",
    ),
    "a store's option": (
        f"postgresql://{USER}@127.0.0.1:{{postgres}}/{USER}?password={WRONG}",
        "status",
    ),
    "a store's unknown option": (f"postgresql://{USER}:x@127.0.0.1/x?{WRONG}=1", "check"),
    "keywords": (f"FEEDBUS host=127.0.0.1 user={USER} password={WRONG}", "check"),
}
VARIABLES = {"amqp": "FEEDBUS_BROKER_URL", "http": "CANARY_MANAGEMENT"}
WORDS = {"publish": ("publish", "publish_tweet", "--json", "{}"), "status": ("status", "--json")}


@pytest.mark.parametrize(("form", "command"), WRONGS.values(), ids=WRONGS)
def test_no_part_of_a_password_is_written_where_something_fails(
    commands: Commands, rabbitmq: RabbitMQ, postgres: Postgres, form: str, command: str
):
    url = form.format(
        rabbitmq=rabbitmq.port, management=rabbitmq.management_port, postgres=postgres.port
    )
    variable = VARIABLES.get(form[:4], "FEEDBUS_DATABASE_URL")
    code = commands.run(*WORDS.get(command, (command,)), **{variable: url})
    assert code == 0 if command == "status" else code in {1, 2}
    assert commands.written[0][1]
    commands.keep()
    assert commands.leaks() == []


def test_a_canary_is_found_where_it_is_written(tmp_path: Path):
    commands = Commands(tmp_path, {})
    (tmp_path / "some.log").write_text(f"amqp://me:{quote(BROKER, safe='')}@host")
    commands.keep()
    assert commands.leaks()


def test_check_shows_no_value_of_the_environment(tmp_path: Path):
    (tmp_path / "topology.toml").write_text(
        'name = "${A}"\n[exchanges]\nx = { type = "${A}" }\n[store]\nurl = "${A}"\n'
        '[broker]\nurl = "${A}"\n[queues.x]\nexchange = "${A}"\nhandler = "${A}"\n'
        '[processes.x]\ncommand = "${A}\'"\nenvironment = "${A}"\n'
    )
    commands = Commands(tmp_path, {"A": f"a {WRONG}"})
    assert commands.run("check") == 1
    commands.keep()
    assert commands.leaks() == []
