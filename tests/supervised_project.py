"""A project under a supervisor, and the commands of an operator."""

import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import zmq
from circus.client import CircusClient

from tests.projects import (
    CLOCK,
    PATIENCE_SECONDS,
    ROOT,
    circusctl,
    environment_without_options,
    is_alive,
    wait_until,
)

CIRCUSD = Path(sys.executable).with_name("circusd")
TOPOLOGY = """
name = "small"
[broker]
url = "sqlite:///var/broker.db"
[store]
url = "sqlite:///var/store.db"
[exchanges]
feed = { type = "x-consistent-hash" }
mail = { type = "direct" }
[queues.feed]
exchange = "feed"
shards = 2
handler = "handle:handle"
[queues.mail]
exchange = "mail"
routing_keys = ["mail"]
handler = "handle:handle"
[processes.clock]
command = "python clock.py"
"""
HANDLE = """
from marshmallow import Schema, fields
from feedbus import handler

class Note(Schema):
    text = fields.Str(required=True)

@handler(Note)
def handle(message, bus):
    print(message["text"], flush=True)
"""
ALL = {"feed_0", "feed_1", "mail", "clock", "operations"}


class System:
    """A project of two queues and a process in a folder."""

    def __init__(self, root):
        self.root = root
        self.environment = environment_without_options() | {"PYTHONPATH": str(ROOT)}
        (root / "topology.toml").write_text(TOPOLOGY)
        (root / "handle.py").write_text(HANDLE)
        (root / "clock.py").write_text(CLOCK)
        shutil.copy(ROOT / "circus.ini", root)

    def run(self, *command):
        return subprocess.run(
            list(map(str, command)),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def feedbus(self, *arguments):
        return self.run(sys.executable, "-m", "feedbus", *arguments)

    def circusctl(self, *arguments):
        answer = circusctl(self.root, self.environment, *arguments)
        assert answer.returncode == 0, answer.stderr + answer.stdout
        return answer.stdout.strip()

    @contextmanager
    def started(self, *command):
        """Run a supervisor in the foreground, its output in a file, until the block ends."""
        with (self.root / "output").open("w") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.root,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()

    def up(self):
        return self.started(sys.executable, "-m", "feedbus", "up")

    def circusd(self):
        return self.started(CIRCUSD, "circus.ini")

    @property
    def output(self):
        return (self.root / "output").read_text()

    def ask(self, command, **properties):
        """Send a command to the supervisor as circusctl does, without starting a process for it."""
        context = zmq.Context()
        address = f"ipc://{self.root / 'var' / 'run' / 'circus.sock'}"
        client = CircusClient(context, address, timeout=PATIENCE_SECONDS)
        try:
            return client.send_message(command, **properties)
        finally:
            client.stop()
            context.term()

    def status(self):
        return self.ask("feedbus")["watchers"]

    def options(self, names):
        found = {name: self.ask("options", name=name)["options"] for name in names}
        for options in found.values():
            del options["env"]  # it holds the supervisor's process id
        return found

    def pids(self, name):
        return [process["pid"] for process in self.status()[name]["processes"]]

    def wait_for_output(self, pattern):
        wait_until(lambda: re.search(pattern, self.output), lambda: self.output)

    def wait_for_running(self, names):
        wait_until(
            lambda: all(self.status()[name]["state"] == "running" for name in names),
            lambda: self.output,
        )

    def processes(self):
        """Return the ids of all processes that run in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "cwd").readlink() == self.root and is_alive(int(entry.name)):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found
