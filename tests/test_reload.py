"""`feedbus up --reload` and `--logs`: files are followed, and log lines come to stdout."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from feedbus import config
from feedbus.cli import main
from feedbus.generations.switch import EXIT_AT
from feedbus.new_project import create
from feedbus.supervisor import reloader
from feedbus.supervisor.log_copies import PIECE_BYTES, LogCopies
from feedbus.supervisor.reloader import file_times
from feedbus.supervisor.rotated_log import RotatedLog
from tests.projects import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.processes

ORDER = '{"id": 1, "product": "chair", "customer": "ann", "quantity": 2}'


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_line_is_copied_after_the_name_of_who_wrote_it(pipe):
    reader, writer = pipe
    copies = LogCopies(6, writer)
    copies.of("mail")(b"one\ntwo\n")
    copies.of("orders")(b"three\n")
    assert os.read(reader, 100) == b"mail    one\nmail    two\norders  three\n"


def test_what_would_steer_a_terminal_is_escaped_in_a_copied_line(pipe):
    reader, writer = pipe
    LogCopies(4, writer).of("mail")(b"a\x1b[2Jb\xff\tc\n")
    assert os.read(reader, 100) == rb"mail  a\x1b[2Jb\xff    c" + b"\n"


def test_a_copy_that_nobody_reads_is_dropped_and_counted_until_there_is_room(pipe):
    reader, writer = pipe
    copies = LogCopies(4, writer)
    copy = copies.of("mail")
    line = b"x" * PIECE_BYTES + b"\n"
    while not copies.dropped_lines:
        copy(line)
    copy(b"lost\n")
    assert copies.dropped_lines == 2
    printed = os.read(reader, 2**20)
    copy(b"kept\n")
    printed += os.read(reader, 2**20)
    assert printed.endswith(b"\n(2 lines dropped: stdout was not read)\nmail  kept\n")


def test_a_closed_stdout_troubles_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    LogCopies(4, writer).of("mail")(b"one\n")
    os.close(writer)


def test_a_log_file_and_its_copy_have_the_same_lines(tmp_path):
    copied = []
    log = RotatedLog(str(tmp_path / "q.log"), 1000, 2, copy=copied.append)
    for piece in (b"first\nsec", b"ond\n"):
        log({"data": piece})
    log.close()
    assert b"".join(copied) == (tmp_path / "q.log").read_bytes() == b"first\nsecond\n"


def test_the_files_that_are_followed_are_the_topology_and_the_python_files_of_the_project(tmp_path):
    followed = ("topology.toml", "app.py", "shop/mail.py")
    others = ("notes.txt", ".git/hook.py", "var/x.py", "env/pyvenv.cfg", "env/lib/y.py")
    for name in (*followed, *others, "__pycache__/z.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    found = file_times(tmp_path, tmp_path / "topology.toml", tmp_path / "var")
    assert set(found) == {str(tmp_path / name) for name in followed}


def test_detached_there_is_no_stdout_for_logs(tmp_path):
    topology = str(create("shop", tmp_path, minimal=True).folder / "topology.toml")
    done = CliRunner().invoke(main, ["--topology", topology, "up", "--detach", "--logs"])
    assert done.exit_code == 1
    assert "--detach and --logs exclude each other" in done.output


class Up:
    """`feedbus up` of a project, and what it has printed so far."""

    def __init__(self, folder, *words):
        self.folder = folder
        self.output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "feedbus", "up", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, text, *, times=1):
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.output.count(text) >= times)
        assert self.output.count(text) >= times, f"expected {text!r} in:\n{self.output}"

    def replace(self, name, old, new):
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def publish(self):
        words = ("publish", "orders", "--key", "chair", "--json", ORDER)
        subprocess.run([sys.executable, "-m", "feedbus", *words], cwd=self.folder, check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.output
        self.reader.join()
        self.process.stdout.close()


def test_a_new_project_runs_and_follows_its_files_as_they_are_written(tmp_path):
    folder = create("shop", tmp_path, minimal=True).folder
    text = (folder / "topology.toml").read_text()
    clock = '[processes.clock]\ncommand = "python clock.py"\n'
    (folder / "topology.toml").write_text(text.replace("= 4 ", "= 1 ") + clock)
    (folder / "clock.py").write_text("import time\nprint('began')\ntime.sleep(600)\n")
    with Up(folder, "--reload", "--logs") as up:
        up.wait_for("all 4 processes are ready")
        up.wait_for("operations page: http://127.0.0.1:")
        up.replace("app.py", "receipt mailed to", "receipt posted to")
        up.wait_for('event=files_changed consumer=supervisor message="files have changed: app.py')
        up.wait_for("event=ready consumer=mail ", times=2)
        up.wait_for("clock       began", times=2)
        up.publish()
        up.wait_for("receipt posted to ann: chair")
        assert "\nmail        20" in up.output  # a line of the log of mail, after its name
        up.replace("topology.toml", 'exchange = "orders"', 'exchange = "order"')
        up.wait_for("event=reload_refused consumer=supervisor")
        problem = re.search(r".*no exchange named 'order'; did you mean 'orders'\?.*", up.output)
        assert problem is not None
        assert " WARNING event=command_output " in problem[0]
        up.replace("topology.toml", 'exchange = "order"', 'exchange = "orders"')
        up.replace("topology.toml", '["mail.#"]', '["mail.#", "post.#"]')
        up.wait_for("applied")
        assert up.output.count("event=ready consumer=reserve_0 ") == 2
        up.replace("topology.toml", "= 1 ", "= 2 ")
        up.wait_for("applied", times=2)
        up.wait_for("event=ready consumer=reserve_1 ")
        assert "still empty old queues" not in up.output
        up.replace("app.py", "receipt posted to", "receipt sent to")
        up.replace("topology.toml", '"post.#"]', '"sent.#"]')
        up.wait_for("event=ready consumer=reserve_0 ", times=3)
        # No line asks the operator to do something that the supervisor does itself.
        assert "`feedbus restart`" not in up.output
        assert 'message=""' not in up.output
    assert "receipt posted to ann" in (folder / "var" / "log" / "mail.log").read_text()


def test_an_apply_that_fails_halfway_is_not_reported_as_without_effect(tmp_path, monkeypatch):
    folder = create("shop", tmp_path, minimal=True).folder
    text = (folder / "topology.toml").read_text().replace("= 4 ", "= 1 ")
    (folder / "topology.toml").write_text(text)
    monkeypatch.setenv(EXIT_AT, "exchanges-declared")
    with Up(folder, "--reload") as up:
        up.wait_for("all 3 processes are ready")
        up.replace("topology.toml", '["mail.#"]', '["mail.#", "post.#"]')
        up.wait_for("event=reload_failed consumer=supervisor")
        assert "`feedbus apply` has failed, and may have made a part of the changes" in up.output
        assert "was not changed" not in up.output


@pytest.mark.parametrize(
    ("command", "reported"),
    [
        ("check", "`feedbus check` got SIGTERM after 10 s; the running system was not changed;"),
        ("apply", "`feedbus apply` got SIGTERM after 10 s, and may have made a part of"),
    ],
)
def test_a_command_that_takes_too_long_is_ended_with_a_true_report(
    tmp_path, monkeypatch, caplog, command, reported
):
    monkeypatch.setattr(reloader, "COMMAND_SECONDS", 10.0)
    queue = '[queues.q]\nexchange = "e"\nrouting_keys = [""]\nhandler = "hangs:f"\n'
    text = f'name = "x"\n[exchanges]\ne = {{ type = "direct" }}\n{queue}'
    (tmp_path / "topology.toml").write_text(text)
    (tmp_path / "hangs.py").write_text(
        "import sys, time\nfrom feedbus import handler\n"
        f"if {command!r} in sys.argv:\n    time.sleep(600)\n"
        "@handler\ndef f(message: dict):\n    pass\n"
    )
    topology = config.load(tmp_path / "topology.toml")
    supervision = SimpleNamespace(topology=topology, watchers=[], stopping=False)
    follower = reloader.Reloader(supervision)
    asyncio.run(follower._follow({str(topology.path)}))
    assert reported in caplog.text


def test_a_topology_that_was_refused_is_applied_when_its_missing_module_is_written(tmp_path):
    folder = create("shop", tmp_path, minimal=True).folder
    text = (folder / "topology.toml").read_text().replace("= 4 ", "= 1 ")
    (folder / "topology.toml").write_text(text)
    queue = '[queues.audit]\nexchange = "receipts"\nrouting_keys = ["#"]\nhandler = "audit:take"\n'
    with Up(folder, "--reload") as up:
        up.wait_for("all 3 processes are ready")
        (folder / "topology.toml").write_text(text + queue)
        up.wait_for("cannot import audit: there is no such module")
        up.wait_for("event=reload_refused")
        (folder / "audit.py").write_text("def take(receipt):\n    pass\n")
        up.wait_for("event=reload_refused", times=2)
        (folder / "audit.py").write_text(
            "from feedbus import handler\n\n\n@handler\ndef take(receipt):\n    pass\n"
        )
        up.wait_for("event=ready consumer=audit ")
