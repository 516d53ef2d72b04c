"""How a WSGI application answers and logs the exceptions of its routes."""

from __future__ import annotations

import json
import sqlite3
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from feedbus import Outage
from feedbus.errors import BrokerOutage, StoreOutage
from feedbus.logs import Event
from feedbus.operations.access_control import Guard
from feedbus.operations.wsgi_application import Application

SECRET = "amqp://user:secret@host"  # must not be in an answer


@pytest.mark.parametrize(
    ("error", "part", "named"),
    [
        (StoreOutage(SECRET), "store", "The store does not answer"),
        (sqlite3.OperationalError(SECRET), "store", "The store does not answer"),
        (BrokerOutage(SECRET), "broker", "The broker does not answer"),
        (Outage(SECRET), "handler", "Another service that the request needs is unavailable"),
    ],
)
def test_the_answer_and_the_log_name_the_part_that_is_unavailable(
    error: Exception, part: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = answer_to(error)
    assert status == "503 Service Unavailable"
    assert headers["Retry-After"]
    assert json.loads(body)["detail"].startswith(named)
    assert SECRET not in body.decode()
    (record,) = caplog.records
    event = record.msg
    assert isinstance(event, Event)
    assert event.name == "request_outage"
    assert event.fields == {"part": part, "route": "/", "error": SECRET}
    assert named[1:] in event.message


def answer_to(error: Exception) -> tuple[str, dict[str, str], bytes]:
    """Return the status, the headers and the body of the answer if a route raises the error."""
    app = Application(
        Guard(), not_found="", is_outage=lambda each: isinstance(each, sqlite3.OperationalError)
    )

    def fail() -> None:
        raise error

    started: list[Any] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    app.route("/", "GET", fail, public=True)
    body = b"".join(app.wsgi(environ, lambda *arguments: started.extend(arguments)))
    return started[0], dict(started[1]), body
