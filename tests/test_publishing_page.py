"""docs/how-to/publish.md: its programs run, one after the other, in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus import config
from tests.pages import blocks
from tests.systems import System

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "publish.md"
CALL_WSGI = """
import threading
from http.client import HTTPConnection
from wsgiref.simple_server import make_server
import feedbus
import web_wsgi

def post(body):
    connection = HTTPConnection(*server.server_address, timeout=30)
    connection.request("POST", "/orders", body)
    return connection.getresponse().status

def fail(*_, **__):
    raise feedbus.BrokerOutage("down")

with make_server("127.0.0.1", 0, web_wsgi.application) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert post('{"id": 4, "product": "table"}') == 202
    assert post('{"id": 4, "product": "sofa"}') == 422
    web_wsgi.bus.publish = fail
    assert post('{"id": 4, "product": "table"}') == 503
    server.shutdown()
"""
CALL_ASYNC = """
from starlette.testclient import TestClient
import feedbus
from web_async import app

async def fail(*_, **__):
    raise feedbus.BrokerOutage("down")

with TestClient(app) as client:
    assert client.post("/orders", json={"id": 5, "product": "chair"}).status_code == 202
    assert client.post("/orders", json={"id": 5, "product": "sofa"}).status_code == 422
    feedbus.AsyncBus.publish = fail
    assert client.post("/orders", json={"id": 5, "product": "chair"}).status_code == 503
"""
CALL_FASTAPI = CALL_ASYNC.replace("web_async", "web_fastapi")
CALL_TRANSACTION = """
import os
from starlette.testclient import TestClient
from shop_db import engine
from web_db import app

with TestClient(app) as client:
    assert client.post("/orders", json={"id": 8, "product": "table"}).status_code == 202
    engine.dispose()
    os.rename("shop.db", "away.db")
    os.mkdir("shop.db")  # SQLite cannot open a folder
    assert client.post("/orders", json={"id": 9, "product": "table"}).status_code == 503
"""
READ_ORDERS = """
from sqlalchemy.orm import Session
from shop_db import Order, engine
with Session(engine) as session:
    assert [order.product for order in session.query(Order)] == ["chair"]
"""


def write_files(folder: Path, last: str) -> None:
    """Write the files of the page into the folder, up to the file with a name."""
    for block in blocks(PAGE):
        if block.file is not None:
            (folder / block.file).write_text(block.text)
            if block.file == last:
                return
    pytest.fail(f"{PAGE} has no file {last}")


def run(folder: Path, program: str) -> int:
    """Run a program in the folder; return how many messages wait afterwards."""
    done = subprocess.run(
        [sys.executable, *([program] if program.endswith(".py") else ["-c", program])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return System(config.load(folder / "topology.toml"), store=None).ready()["reserve"]


def test_the_programs_of_the_page_publish(tmp_path):
    write_files(tmp_path, "script.py")
    assert run(tmp_path, "script.py") == 3
    write_files(tmp_path, "web_wsgi.py")
    assert run(tmp_path, CALL_WSGI) == 4
    write_files(tmp_path, "web_async.py")
    assert run(tmp_path, CALL_ASYNC) == 5
    write_files(tmp_path, "web_fastapi.py")
    assert run(tmp_path, CALL_FASTAPI) == 6
    write_files(tmp_path, "ordering.py")
    assert run(tmp_path, "ordering.py") == 7
    assert run(tmp_path, READ_ORDERS) == 7
    write_files(tmp_path, "web_db.py")
    assert run(tmp_path, CALL_TRANSACTION) == 8
