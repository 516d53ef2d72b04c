"""The web process of the application: it publishes what a request names, once for each request."""

from __future__ import annotations

import json
import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from effects import Request

import feedbus
from feedbus.errors import Outage
from feedbus.process.process_setup import follow_parent
from feedbus.process.status_files import mark_ready

BROKER_PATIENCE_SECONDS = 0.5  # then the relay publishes the messages
bus = feedbus.connect(timeout_seconds=BROKER_PATIENCE_SECONDS)


class Requests(BaseHTTPRequestHandler):
    """Requests of publishers: POST {"name": NAME, "pairs": [[RECORD, KEY], …]}."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Commit the request and its messages, or neither."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            with bus.transaction():
                new = Request.insert(name=asked["name"]).on_conflict_ignore().as_rowcount()
                if new.execute():
                    bus.publish_many("ring", map(tuple, asked["pairs"]))
            status = HTTPStatus.NO_CONTENT
        except Outage as error:
            self.log_error("%s", error)
            status = HTTPStatus.SERVICE_UNAVAILABLE
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, *_: object) -> None:
        """Log no request that was answered."""


if __name__ == "__main__":
    follow_parent()
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["CHAOS_WEB_PORT"])), Requests)
    mark_ready()
    server.serve_forever()
