"""feedbus run, publish and dead as processes: their ends, crashes, and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.projects import PATIENCE_SECONDS, Project, gone, wait_until

pytestmark = pytest.mark.processes

IDLE = ("run", "work", "--idle-timeout", "1500ms")


def test_a_run_that_has_been_idle_ends_with_0(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)")
    project.publish(1, 2)
    done = project.feedbus(*IDLE)
    assert project.seen() == ["1", "2"]
    assert 'event=ended consumer=work reason="idle for 1.5 s"' in done.stderr


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_coroutine_that_a_handler_does_not_await_is_logged_with_its_place(
    tmp_path: Path, keyword: str
) -> None:
    options = "store = false"
    project = Project.at(tmp_path, "async def send(): ...\nnote(n)\nsend()", options)
    module = tmp_path / "small_handlers.py"
    module.write_text(module.read_text().replace("def work", f"{keyword} work"))
    project.publish(1)
    done = project.feedbus("run", "work", "--max-messages", "1")
    assert project.seen() == ["1"]
    line = module.read_text().splitlines().index("    send()") + 1
    logged = "event=coroutine_not_awaited consumer=work coroutine=work.<locals>.send"
    assert f"{logged} place={module}:{line} function=work " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_message_in_flight_be_settled_and_ends_with_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    project = Project.at(tmp_path, "note(n)\ntime.sleep(0.6)\nnote(f'{n}-done')")
    project.publish(1, 2)
    with project.start("run", "work") as process:
        wait_until(lambda: project.seen() == ["1"])
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output
    assert project.seen() == ["1", "1-done"]
    project.feedbus("run", "work", "--max-messages", "1")
    assert project.seen() == ["1", "1-done", "2", "2-done"]


def test_a_consumer_killed_with_a_message_in_flight_loses_nothing(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)\nif len(open(LOG).readlines()) == 1: time.sleep(60)")
    handlers = tmp_path / "small_handlers.py"
    handlers.write_text(handlers.read_text().replace("LOG)", f"{str(project.log)!r})"))
    project.publish(1, 2, 3)
    with project.start("run", "work") as process:
        wait_until(lambda: project.seen() == ["1"])
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    project.feedbus(*IDLE)
    assert project.seen() == ["1", "1", "2", "3"]
    assert project.dead() == []


def test_a_message_that_kills_its_consumer_is_found_out_and_set_aside(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)\nif n == 2: os._exit(9)")
    project.publish(1, 2, 3)
    codes = []
    while "3" not in project.seen():
        codes.append(project.feedbus(*IDLE, code=None).returncode)
    assert [code for code in codes if code] == [9] * 5
    assert project.seen() == ["1", *["2"] * 5, "3"]
    (letter,) = project.dead()
    assert letter["reason"] == (
        "while the message was handled, the process or its connection ended 5 times; the last"
        " time, the process ended"
    )


def test_kills_from_outside_are_held_against_no_message_of_a_batch(tmp_path: Path) -> None:
    body = "note(n)\nif not os.path.exists('free'): time.sleep(60)"
    project = Project.at(tmp_path, body.replace("'free'", repr(str(tmp_path / "free"))))
    handler_file = tmp_path / "var" / "run" / "work.1.handler"
    project.publish(1, 2)
    for _ in range(3):
        with project.start("run", "work") as process:
            seen = len(project.seen())
            wait_until(lambda seen=seen: len(project.seen()) > seen)
            # As if several messages were in the handler; this consumer has only one.
            until, pid, deaths, (handled,) = json.loads(handler_file.read_text().partition("\n")[0])
            handler_file.write_text(json.dumps([until, pid, deaths, [handled, "another"]]))
            process.kill()
            process.communicate(timeout=PATIENCE_SECONDS)
    (tmp_path / "free").touch()
    project.feedbus(*IDLE)
    assert project.seen()[-2:] == ["1", "2"]
    assert project.dead() == []


def test_a_handler_that_exits_fails_its_message_alone(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)\nif n == 1: sys.exit(3)")
    project.publish(1, 2)
    project.feedbus(*IDLE)
    assert sorted(project.seen()) == ["1", "1", "2"]
    assert [letter["reason"] for letter in project.dead()] == ["SystemExit: 3"]


def test_a_handler_that_hangs_is_ended_and_says_where_it_hung(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)\ntime.sleep(60)", 'handler_timeout = "500ms"')
    project.publish(1)
    done = project.feedbus("run", "work", code=-signal.SIGABRT)
    assert "event=hangs consumer=work " in done.stderr
    assert "small_handlers.py" in done.stderr


def test_a_handler_that_eats_memory_fails_its_message_and_nothing_else(tmp_path: Path) -> None:
    project = Project.at(
        tmp_path,
        "if n == 1: return len(bytearray(2_000_000_000))\nnote(n)",
        'memory_limit = "300MB"',
    )
    project.publish(1, 2)
    project.feedbus(*IDLE)
    assert project.seen() == ["2"]
    assert [letter["reason"] for letter in project.dead()] == ["MemoryError"]


def test_dead_letters_are_shown_sent_back_and_purged(tmp_path: Path) -> None:
    body = "if not os.path.exists('mended'): raise KeyError('broken')\nnote(n)"
    project = Project.at(tmp_path, body.replace("'mended'", repr(str(tmp_path / "mended"))))
    project.publish(1, 2, 3)
    project.feedbus(*IDLE)
    first, second, _ = project.dead()
    shown = json.loads(project.feedbus("dead", "show", "work", str(first["id"])).stdout)
    assert shown["reason"] == "KeyError: 'broken'"
    assert shown["traceback"] == first["traceback"]
    assert shown["traceback"][-1] == "KeyError: 'broken'"
    assert any("raise KeyError('broken')" in line for line in shown["traceback"])
    (tmp_path / "mended").touch()
    reported = project.feedbus("dead", "requeue", "work", str(second["id"])).stdout
    assert reported == "1 dead letter sent back to work\n"
    project.feedbus(*IDLE)
    assert project.seen() == ["2"]
    assert project.feedbus("dead", "requeue", "work", "--all").stdout.startswith("2 dead letters")
    project.feedbus(*IDLE)
    assert project.seen() == ["2", "1", "3"]
    assert project.dead() == []
    (tmp_path / "mended").unlink()
    project.publish(4)
    project.feedbus(*IDLE)
    assert project.feedbus("dead", "purge", "work", "--yes").stdout == "1 dead letter dropped\n"
    assert project.feedbus("dead", "list").stdout == "no dead letters\n"


@pytest.mark.parametrize("options", [[], ["--detach"]])
def test_ctrl_c_while_things_are_made_ready_ends_without_a_traceback(
    tmp_path: Path, options: list[str]
) -> None:
    project = Project.at(tmp_path, "pass")
    text = project.topology.read_text()
    project.topology.write_text(text.replace("[store]", '[store]\nprepare = "slow:prepare"'))
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\n"
        "def prepare(topology):\n"
        f"    pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    command = project.command("up", *options)
    # A program that a shell starts in the background ignores SIGINT. So would its child processes.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process:
            wait_until(lambda: begun.exists() and begun.read_text())
            os.killpg(process.pid, signal.SIGINT)
            reported, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert (process.returncode, reported) == (0, b"stopped\n")
    wait_until(lambda: gone(int(begun.read_text())))


def test_a_dead_letter_is_listed_on_one_line_whatever_its_reason_holds(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "raise Reject('one\\ntwo \\x1b[2J')")
    project.publish(1)
    project.feedbus(*IDLE)
    (line,) = project.feedbus("dead", "list", "work").stdout.splitlines()
    assert line.endswith(r"one\ntwo \x1b[2J")


def test_what_cannot_be_published_is_reported_with_its_line(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"n": 1}\n[2]\n')
    reported = project.feedbus("publish", "work", "--file", str(lines), code=1).stderr
    assert f"{lines}:2: expected a JSON object, got '[2]'; published from the lines" in reported
    reported = project.feedbus("publish", "work", "--key", "no", "--json", "{}", code=1).stderr
    assert "no queue of exchange 'small.work' is bound for the routing key 'no'" in reported
    reported = project.feedbus("publish", "wrk", "--json", "{}", code=1).stderr
    assert (
        reported == "error: no exchange named 'wrk'; expected one of work; did you mean 'work'?\n"
    )


def test_a_consumer_that_there_is_not_is_met_with_those_there_are(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)")
    reported = project.feedbus("run", "wrok", code=1).stderr
    assert (
        reported == "error: no consumer named 'wrok'; expected one of work; did you mean 'work'?\n"
    )


def test_a_broker_file_that_cannot_be_opened_is_an_error_without_a_traceback(
    tmp_path: Path,
) -> None:
    project = Project.at(tmp_path, "note(n)")
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "broker.db").mkdir()
    reported = project.feedbus("publish", "work", "--json", "{}", code=1).stderr
    waiting, error = reported.splitlines()
    assert waiting.endswith("is not available; trying again for at most 10 s")
    assert error.startswith("error: broker sqlite:///")
    assert (tmp_path / "var" / "broker.db").is_dir()


@pytest.mark.parametrize("store", [False, True])
def test_consumers_that_do_not_use_a_store_run_side_by_side(tmp_path: Path, store: bool) -> None:
    # Each handler waits until the other handler runs, too.
    body = """
import pathlib
here = pathlib.Path(__file__).parent
(here / f"begun{n}").touch()
while not (here / f"begun{1 - n}").exists():
    time.sleep(0.01)
note(n)
"""
    project = Project.at(tmp_path, body, 'handler_timeout = "5m"\nprocesses = 2\nprefetch = 1')
    if not store:
        text = project.topology.read_text()
        project.topology.write_text(text.replace('[store]\nurl = "sqlite:///var/store.db"\n', ""))
    project.publish(0, 1)
    runs = [
        project.start("run", "work", "--max-messages", "1", "--slot", slot) for slot in ("1", "2")
    ]
    assert [run.wait(PATIENCE_SECONDS) for run in runs] == [0, 0]
    for run in runs:
        run.stdout.close()
    assert sorted(project.seen()) == ["0", "1"]
    assert not (tmp_path / "var" / "store.db").exists()
