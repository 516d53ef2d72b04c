"""Connections to one broker file, and processes that use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kombu.connection import Connection

from feedbus.transports.sqlite import Transport
from tests.projects import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class Client:
    """A process that is controlled by lines, and may be killed."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("client.py")), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert self.hear() == "connected"

    def say(self, word, *arguments):
        self.process.stdin.write(json.dumps([word, *arguments]) + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "broker.db"


@pytest.fixture
def connect(path):
    opened = []

    def make(**options):
        connection = Connection(
            transport=Transport, virtual_host=str(path), transport_options=options
        )
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.release()


@pytest.fixture
def client(path):
    started = []

    def start():
        made = Client(path)
        started.append(made)
        return made

    yield start
    for each in started:
        each.kill()
