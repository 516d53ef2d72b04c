"""Resources: opened once in a process, given to handlers by type, closed at the end."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from feedbus import Outage, handler, resource
from feedbus.cli import main, restart
from feedbus.errors import UsageError
from feedbus.testing import TestSystem
from tests import resources_to_open
from tests.handlers_to_run import Numbered, topology_of
from tests.projects import PATIENCE_SECONDS, Project, status, wait_until
from tests.resources_to_open import FAILURES, STEPS, Client, client, needed


@handler(Numbered)
def send(record: dict[str, int], client: Client) -> None:
    client.send(record["n"])


@handler(Numbered)
def ignore(record: dict[str, int]) -> None:
    STEPS.append("ignored")


@pytest.fixture(autouse=True)
def no_steps():
    STEPS.clear()
    FAILURES.clear()


def test_a_resource_is_opened_once_with_what_it_asks_for_and_closed_at_the_end():
    with TestSystem(topology_of(f"{__name__}:send")) as system:
        for n in range(2):
            system.publish("work", {"n": n})
        assert STEPS == []
        system.run()
        assert STEPS == ["settings", "open", "ours sends 0", "ours sends 1"]
    assert STEPS[4:] == ["close"]


def test_a_resource_that_nobody_asks_for_is_not_opened():
    with TestSystem(topology_of(f"{__name__}:ignore")) as system:
        system.publish("work", {"n": 1})
        system.run()
        with pytest.raises(
            UsageError, match=r"no handler or middleware needs the resource client \(.*py:\d+\)"
        ):
            system.override(client, None)
    assert STEPS == ["ignored"]


class FakeClient:
    def send(self, n: int) -> None:
        STEPS.append(f"fake {n}")


def test_a_test_replaces_a_resource_before_or_after_it_is_opened():
    with TestSystem(topology_of(f"{__name__}:send")) as system:
        system.override(client, FakeClient())
        system.publish("work", {"n": 1})
        system.run()
    assert STEPS == ["fake 1"]
    STEPS.clear()
    with TestSystem(topology_of(f"{__name__}:send")) as system:
        system.publish("work", {"n": 1})
        system.run()
        system.override(client, FakeClient())
        system.publish("work", {"n": 2})
        system.run()
    assert STEPS == ["settings", "open", "ours sends 1", "fake 2", "close"]


def test_only_a_resource_can_be_replaced():
    with (
        TestSystem(topology_of(f"{__name__}:send")) as system,
        pytest.raises(
            TypeError, match=r"expected a function with the decorator @feedbus.resource, got <class"
        ),
    ):
        system.override(Client, FakeClient())


def test_a_resource_that_fails_to_open_is_an_outage_and_loses_no_message():
    FAILURES.append(OSError("no route to host"))
    with TestSystem(topology_of(f"{__name__}:send")) as system:
        system.publish("work", {"n": 1})
        place = rf"\({resources_to_open.__file__}:\d+\)"
        with pytest.raises(
            Outage, match=f"resource client {place} cannot be opened: OSError: no route to host"
        ):
            system.run()
        assert (system.retries(), system.dead_letters()) == (0, [])
        system.run()
    assert STEPS == ["settings", "open", "ours sends 1", "close"]


@resource
def unclosable() -> Iterator[int]:
    yield 1
    raise OSError


@resource
def twice() -> Iterator[float]:
    yield 1.0
    yield 2.0


@resource
def never() -> Iterator[str]:
    yield from ()


def test_what_cannot_be_closed_is_logged_and_the_others_are_closed(caplog):
    resources = needed(client, unclosable, twice)
    resources.open()
    with caplog.at_level(logging.ERROR):
        resources.close()
    assert [record.msg.message.partition(" (")[0] for record in caplog.records] == [
        "the resource twice",
        "the resource unclosable",
    ]
    assert STEPS[-1] == "close"


def test_a_generator_that_yields_nothing_is_no_resource():
    with pytest.raises(Outage, match=r"never .* cannot be opened: it has yielded no value"):
        needed(never).open()


BODY = """\
client.append(n)
note(f"handles-{sum(client)}")
"""
CLIENT = """
from collections.abc import Iterator

from feedbus import resource

@resource
def client() -> Iterator[list]:
    if not os.path.exists({ready!r}):
        raise OSError("not yet")
    note("opens")
    yield []
    note("closes")
"""


@pytest.fixture
def project(tmp_path):
    """Return a project whose resource cannot be opened before the file "ready" exists."""
    project = Project.at(tmp_path, BODY)
    module = tmp_path / "small_handlers.py"
    text = module.read_text().replace("message, bus)", "message, client: list)")
    before, mark, after = text.partition("@handler")
    module.write_text(before + CLIENT.format(ready=str(tmp_path / "ready")) + mark + after)
    return project


def test_a_process_holds_until_its_resource_opens_and_closes_it_on_sigterm(project):
    ready = project.folder / "ready"
    project.publish(1, 2)
    process = project.start("run", "work")
    said = ""
    while "holds" not in said:
        said = process.stdout.readline()
    assert "resource client (" in said
    assert "cannot be opened: OSError: not yet" in said
    ready.touch()
    wait_until(lambda: len(project.seen()) == 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    process.stdout.close()
    assert project.seen() == ["opens", "handles-1", "handles-3", "closes"]
    assert project.dead() == []


def test_a_process_that_holds_at_its_start_continues_by_itself(project, monkeypatch):
    monkeypatch.setattr(restart, "READY_SECONDS", 8.0)
    done = project.feedbus("up", "--detach")
    try:
        held = r"work holds: the resource client .*; it continues by itself"
        assert any(re.fullmatch(held, line) for line in done.stderr.splitlines())
        assert "every process runs after" in done.stdout
        shown = status(project.topology)["consumers"]["work"]
        assert shown["state"] == "holding"
        assert [each["ready"] for each in shown["processes"]] == [False]
        words = ["--topology", str(project.topology), "restart", "work"]
        restarted = CliRunner().invoke(main, words)
        assert restarted.exit_code == 1
        expected = r"work is not ready after 8 s \(it holds, and continues by itself: the resource"
        assert re.search(expected, restarted.output)
        (project.folder / "ready").touch()
        wait_until(lambda: status(project.topology)["consumers"]["work"]["state"] == "running")
    finally:
        project.feedbus("down")
