"""The routes for whoever runs it: metrics, health, the API's description, the operations page."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import bottle

from feedbus.disk_space import unwritable_folders
from feedbus.errors import Outage
from feedbus.metrics import CONTENT_TYPE, exposition
from feedbus.store import Store
from feedbus.topology import Topology
from feedbus.urls import BrokerUrl, StoreUrl
from web.answers import answer, typed
from web.depths import Counts, Depths
from web.figures import figures, metrics_folder
from web.problems import UNAVAILABLE, problem

log = logging.getLogger("web")

PAGE = Path(__file__).with_name("page.html")
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class Operations:
    """What each of these routes does."""

    def __init__(self, topology: Topology, store: Store, depths: Depths, *, locked: bool) -> None:
        """Show this topology's system; locked is whether the API asks for a token."""
        self._locked = locked
        self._topology = topology
        self._store = store
        self._depths = depths

    def metrics(self) -> bytes:
        """Return the metrics of all processes, and what waits in the broker while it answers."""
        depths, _ = self._look()
        gauges: dict[str, dict[str, float]] = {"feedbus_queue_messages": {}}
        dead = gauges["feedbus_dead_letters"] = {}
        for consumer, (ready, kept) in depths.items():
            gauges["feedbus_queue_messages"][consumer] = ready
            dead[self._topology.consumers[consumer].queue.name] = kept
        return typed(CONTENT_TYPE, exposition(metrics_folder(self._topology), gauges))

    def health(self) -> bytes:
        """Say that this process answers."""
        return answer({"status": "ok"})

    def ready(self) -> bytes:
        """Report that broker and store are reachable and can be written to, or which cannot."""
        _, away = self._look()
        found = {
            "broker": (away, "Does not answer."),
            "store": (store_away(self._store), "Does not answer."),
            "disk": ("; ".join(unwritable_folders(self._topology)), "Cannot be written to."),
        }
        if not away:
            found["broker"] = (self._refusal(), "Takes no messages.")
        for part, (error, _) in found.items():
            if error:
                log.warning("event=not_ready part=%s error=%s", part, " ".join(error.split()))
        errors = {part: [public] for part, (error, public) in found.items() if error}
        if errors:
            detail = f"Not ready: {' and '.join(errors)}; the web's log has the reason."
            raise problem(UNAVAILABLE, detail, errors)
        return answer(
            {"status": "ok", "broker": "reachable", "store": "reachable", "disk": "writable"}
        )

    def figures(self) -> bytes:
        """Return what the operations page shows."""
        depths, away = self._look()
        shown = figures(self._topology, depths)
        shown["broker"] = state(self._topology.broker_url, away)
        shown["store"] = state(self._topology.store_url, store_away(self._store))
        return answer(shown)

    def document(self) -> bytes:
        """Return the OpenAPI document."""
        return typed("application/json", openapi_document(locked=self._locked))

    def page(self) -> bytes:
        """Return the operations page."""
        page, policy = page_and_policy()
        bottle.response.set_header("Content-Security-Policy", policy)
        return typed("text/html; charset=utf-8", page)

    def _refusal(self) -> str:
        try:
            return self._depths.refusal()
        except Outage as error:
            return str(error)

    def _look(self) -> tuple[Counts, str]:
        try:
            return self._depths.read(), ""
        except Outage as error:
            return {}, str(error)


def install(
    app: bottle.Bottle, topology: Topology, store: Store, depths: Depths, *, locked: bool
) -> None:
    """Add the routes to an app."""
    operations = Operations(topology, store, depths, locked=locked)
    routes: list[tuple[str, Callable[[], bytes], Mapping[str, bool]]] = [
        ("/metrics", operations.metrics, {"figures": True}),
        ("/api/v1/operations", operations.figures, {}),
        ("/healthz", operations.health, {"public": True}),
        ("/readyz", operations.ready, {"public": True}),
        ("/openapi.json", operations.document, {"public": True}),
        ("/", operations.page, {"public": True}),
    ]
    for rule, function, access in routes:
        app.route(rule, "GET", function, **access)


def store_away(store: Store) -> str:
    """Return why the store does not answer or has no tables, "" when all is well."""
    try:
        store.ready()
        store.outbox.pending(1)
    except Exception as error:
        if not (isinstance(error, Outage) or store.is_outage(error)):
            raise
        return str(error)
    return ""


def state(url: BrokerUrl | StoreUrl | None, away: str) -> dict[str, Any]:
    """Describe a broker or a store without saying where it is."""
    server = "RabbitMQ" if isinstance(url, BrokerUrl) else "PostgreSQL"
    if url is None:
        return {"kind": "none", "reachable": not away}
    return {"kind": "SQLite" if url.embedded else server, "reachable": not away}


@cache
def openapi_document(*, locked: bool) -> bytes:
    """Make each OpenAPI document once; its library is imported when it is first asked for."""
    from web.openapi import build

    return json.dumps(build(locked=locked), ensure_ascii=False).encode()


@cache
def page_and_policy() -> tuple[bytes, str]:
    """Return the page, and the policy under which only its own script and style may run."""
    page = PAGE.read_bytes()
    sources = {"script": "", "style": ""}
    for tag, content in INLINE.findall(page.decode()):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        sources[tag] += f" 'sha256-{digest}'"
    policy = (
        f"default-src 'none'; script-src{sources['script']}; style-src{sources['style']};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return page, policy
