"""examples/: each project has no problems and works as its README describes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from feedbus import AsyncBus, BrokerOutage, Retry, config
from feedbus.cli import main
from feedbus.testing import TestSystem
from tests.projects import wait_until
from tests.systems import System

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/topology.toml"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that copies an example into a separate folder and works there."""
    known = set(sys.modules)

    def use(name):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.syspath_prepend(tmp_path / name)

    yield use
    for module in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


def test_there_are_six_examples_and_the_list_names_each():
    page = (EXAMPLES / "README.md").read_text()
    assert len(NAMES) == 6
    assert [name for name in NAMES if f"[{name}]({name})" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_without_problems(name, project):
    project(name)
    (program,) = Path().glob("*.py")
    assert 15 <= len(program.read_text().splitlines()) <= 60
    checked = CliRunner().invoke(main, ["check"])
    assert checked.output.startswith("topology.toml: ok"), checked.output


def test_no_example_and_no_page_logs_the_name_of_an_event():
    """feedbus itself writes `event=log` for the lines of handlers."""
    root = EXAMPLES.parent
    programs = [*EXAMPLES.rglob("*.py"), *(root / "handlers").rglob("*.py")]
    programs += [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    programs += (root / "feedbus" / "new_project").rglob("*.template")
    found = [each for each in programs if re.search(r"\.\w+\(\s*f?\"event=", each.read_text())]
    assert found == []


def test_hello_runs_on_the_embedded_broker(project):
    project("hello")
    feedbus = (sys.executable, "-m", "feedbus")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        subprocess.run([*feedbus, "up", "--detach"], env=environment, check=True)
        publish = ("publish", "greetings", "--json", '{"name": "ann"}')
        subprocess.run([*feedbus, *publish], env=environment, check=True)
        log = Path("var/log/greet.log")
        wait_until(lambda: 'logger=hello message="hello ann"' in log.read_text())
    finally:
        subprocess.run([*feedbus, "down", "--now"], env=environment, check=True)


def test_ordered_shards_book_each_deposit_before_its_withdrawal(project):
    project("ordered_shards")
    with TestSystem() as system:
        from accounts import Change  # of the example

        for amount in (100, -100):
            for number in range(20):
                name = f"account-{number}"
                system.publish("changes", Change(name, amount), key=name)
        system.publish("changes", Change("empty", -1), key="empty")
        system.run()
        assert [letter.reason for letter in system.dead_letters()] == ["empty has no 1"]
        assert len({each.consumer for each in system.handled("book")}) > 1
        sent = [each.payload for each in system.handled("send")]
        assert [each.balance for each in sent if each.account == "account-7"] == [100, 0]


def test_the_program_of_ordered_shards_publishes(project):
    project("ordered_shards")
    from accounts import publish  # of the example

    publish(5)
    system = System(config.load(Path("topology.toml")), store=None)
    assert sum(system.ready().values()) == 10


def test_without_a_database_a_failed_fetch_is_repeated_and_the_page_is_kept_once(project):
    project("no_database")
    answers = [ConnectionResetError(), b"<html>", b"<html>"]

    def fetch(url):
        assert url == "http://example.org/"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with TestSystem() as system:
        from pages import web  # of the example

        system.override(web, fetch)
        system.publish("pages", {"url": "http://example.org/"})
        system.publish("pages", {"url": "http://example.org/"})
        system.run()
        assert system.dead_letters() == []
        assert len(system.handled()) == 3
    (page,) = Path("pages").iterdir()
    assert page.read_bytes() == b"<html>"


def test_with_sqlalchemy_a_message_that_comes_twice_has_one_effect(project):
    project("sqlalchemy_once")
    with TestSystem() as system:
        from reservations import Reservation, engine  # of the example
        from sqlalchemy.orm import Session

        for _ in range(2):
            order = {"id": 1, "customer": "ann"}
            system.publish("orders", order, key="chair", message_id="the-same")
        system.publish("orders", {"id": 2, "customer": "bob"}, key="chair")
        system.run()
        with Session(engine) as session:
            assert [row.order_id for row in session.query(Reservation)] == [1, 2]
    engine.dispose()


def test_async_calls_are_repeated_for_a_server_error_and_rejected_for_a_client_error(project):
    project("async_http")
    seen = []

    def answer(request):
        seen.append(request)
        first = len([one for one in seen if one.url == request.url]) == 1
        return httpx.Response({"/gone": 410, "/busy": 503 if first else 200}[request.url.path])

    with TestSystem() as system:
        from webhooks import http  # of the example

        system.override(http, httpx.AsyncClient(transport=httpx.MockTransport(answer)))
        for path in ("gone", "busy"):
            event = {"customer": path, "url": f"http://customer.example/{path}", "what": "new"}
            system.publish("events", event, key="event.new")
        system.run()
        (letter,) = system.dead_letters()
        assert letter.reason == "http://customer.example/gone answers 410"
        assert [type(each.error) for each in system.handled()].count(Retry) == 1
    busy = [one.headers["Idempotency-Key"] for one in seen if one.url.path == "/busy"]
    assert len(busy) == 2
    assert len(set(busy)) == 1


@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
def test_fastapi_answers_when_the_order_is_published(project, monkeypatch):
    project("fastapi_publisher")
    from fastapi.testclient import TestClient
    from shop_api import app  # of the example

    async def fail(*_, **__):
        raise BrokerOutage("down")  # noqa: EM101 -- its text

    with TestClient(app) as client:
        order = {"id": 1, "product": "chair", "quantity": 2}
        assert client.post("/orders", json=order).status_code == 202
        assert client.post("/orders", json=order | {"quantity": 0}).status_code == 422
        with monkeypatch.context() as patch:
            patch.setattr(AsyncBus, "publish", fail)
            assert client.post("/orders", json=order).status_code == 503
    system = System(config.load(Path("topology.toml")), store=None)
    assert sum(system.ready().values()) == 1
