"""Whole small projects in a folder, driven by the command line as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedbus import config
from feedbus.cli.status import gather

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 300.0
TOPOLOGY = """
name = "small"
var = "var"
[broker]
url = "sqlite:///var/broker.db"
[store]
url = "sqlite:///var/store.db"
[exchanges]
work = {{ type = "direct" }}
[queues.work]
exchange = "work"
routing_keys = [""]
handler = "small_handlers:work"
retry = {{ delays = ["20ms"], then = "dead-letter" }}
{options}
"""

# A process that is ready and ends by SIGTERM.
CLOCK = """
import signal, sys
from feedbus.process import status_files
status_files.mark_ready()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
"""
HANDLERS = """
import os, sys, time
from marshmallow import Schema, fields
from feedbus import Bus, Reject, handler

class Numbered(Schema):
    n = fields.Integer(strict=True, required=True)

def note(text):
    with open({log!r}, "a") as log:
        log.write(str(text) + "\\n")

@handler(Numbered)
def work(message, bus):
    n = message["n"]
{body}
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a topology and a handler that writes each handled message to a log."""

    folder: Path

    @classmethod
    def at(cls, folder: Path, body: str, options: str = "") -> Project:
        """Write a project whose handler runs body with n, the message's number."""
        project = cls(folder)
        indented = "\n".join(f"    {line}" for line in body.splitlines())
        text = HANDLERS.format(log=str(project.log), body=indented)
        (folder / "small_handlers.py").write_text(text)
        (folder / "topology.toml").write_text(TOPOLOGY.format(options=options))
        return project

    @property
    def log(self) -> Path:
        """The file to which the handler writes."""
        return self.folder / "seen.log"

    def seen(self) -> list[str]:
        """Return the messages that the handler has written."""
        return self.log.read_text().split() if self.log.exists() else []

    def command(self, *words: str) -> list[str]:
        """Return the words that run feedbus on this project."""
        return [sys.executable, "-m", "feedbus", "--topology", str(self.topology), *words]

    @property
    def topology(self) -> Path:
        """The project's topology file."""
        return self.folder / "topology.toml"

    def feedbus(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code; None allows any exit code."""
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def publish(self, *numbers: int | str) -> None:
        """Publish numbered messages."""
        lines = self.folder / "lines.jsonl"
        lines.write_text("".join(json.dumps({"n": number}) + "\n" for number in numbers))
        self.feedbus("publish", "work", "--file", str(lines))

    def dead(self) -> list[dict[str, object]]:
        """Return the dead letters."""
        listed = self.feedbus("dead", "list", "--json").stdout
        return [json.loads(line) for line in listed.splitlines()]


def status(topology: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what `feedbus status --json` prints, without the start of a process.

    The start of a process takes most of the processor time, and many tests ask repeatedly.
    tests/integration/test_supervision.py runs the command.
    """
    found: dict[str, Any] = json.loads(
        json.dumps(gather(config.load(topology, environ=environment)))
    )
    return found


def environment_without_options() -> dict[str, str]:
    """Return the environment of this process without the variables of feedbus."""
    return {name: text for name, text in os.environ.items() if not name.startswith("FEEDBUS_")}


def run_feedbus(
    folder: Path, environment: Mapping[str, str], *words: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command of feedbus in a project's folder and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "feedbus", *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def circusctl(
    folder: Path, environment: Mapping[str, str], *words: str
) -> subprocess.CompletedProcess[str]:
    """Send a command to the supervisor of a project."""
    program = Path(sys.executable).with_name("circusctl")
    # Its own patience is 5 seconds.
    options = ("--endpoint", "ipc://var/run/circus.sock", "--timeout", f"{PATIENCE_SECONDS:.0f}")
    return subprocess.run(
        [program, *options, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def meanwhile(run: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run a function in a thread while the block runs; its event is set when the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=run, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_until(true: Callable[[], object], shown: Callable[[], object] = lambda: "") -> None:
    """Wait until a condition is true.

    A test waits for conditions, never for a time. The patience only ends a test whose condition
    will never be true, so it is longer than anything takes on a machine with ten times the load.

    Args:
        true: the condition.
        shown: returns a text for the failure if the condition does not become true.

    Raises:
        AssertionError: it did not become true.

    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        asked_at = time.monotonic()
        if true():
            return
        assert time.monotonic() < deadline, f"it did not become true {shown()}"
        # Otherwise a condition that starts a process would slow down the awaited processes.
        time.sleep(max(0.02, time.monotonic() - asked_at))


def gone(process_id: int) -> bool:
    """Whether no process has this id."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def is_alive(process_id: int) -> bool:
    """Whether a process runs; a zombie does not run."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
