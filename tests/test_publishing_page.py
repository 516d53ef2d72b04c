"""docs/how-to/publish.md: its programs run, one after the other, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus import config
from tests.systems import System

pytestmark = pytest.mark.processes

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "publish.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
CALL_WSGI = """
import io, os
from web_wsgi import application
answers = []
body = io.BytesIO(b'{"id": 4, "product": "table"}')
application({"wsgi.input": body}, lambda status, headers: answers.append(status))
assert answers == ["202 Accepted"], answers
"""
CALL_ASYNC = """
from starlette.testclient import TestClient
from web_async import app
with TestClient(app) as client:
    assert client.post("/orders", json={"id": 5, "product": "chair"}).status_code == 202
"""
CALL_FASTAPI = CALL_ASYNC.replace("web_async", "web_fastapi")
READ_ORDERS = """
from sqlalchemy.orm import Session
from shop_db import Order, engine
with Session(engine) as session:
    assert [order.product for order in session.query(Order)] == ["chair"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, program: str) -> int:
    """Run a program in the folder; return how many messages wait afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return System(config.load(folder / "topology.toml"), store=None).ready()["reserve"]


def test_the_programs_of_the_page_publish(folder):
    assert run(folder, FILES["script.py"]) == 3
    assert run(folder, CALL_WSGI) == 4
    assert run(folder, CALL_ASYNC) == 5
    assert run(folder, CALL_FASTAPI) == 6
    assert run(folder, FILES["ordering.py"]) == 7
    assert run(folder, READ_ORDERS) == 7
