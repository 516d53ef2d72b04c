"""`python -m bench.bare PORT THREADS < BODY`: only Bottle, on the same HTTP server as web."""

from __future__ import annotations

import sys

import bottle
import waitress


def main() -> None:
    """Answer every GET of a feed with the JSON text from standard input."""
    app = bottle.Bottle()
    body = sys.stdin.buffer.read()

    @app.get("/api/v1/get-feed/<user>")
    def get_feed(user: str) -> bytes:  # noqa: ARG001 -- the route's argument
        bottle.response.content_type = "application/json"
        return body

    waitress.serve(
        app, host="127.0.0.1", port=int(sys.argv[1]), threads=int(sys.argv[2]), _quiet=True
    )


if __name__ == "__main__":
    main()
