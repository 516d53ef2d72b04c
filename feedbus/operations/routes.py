"""The routes of the operations process: metrics, health, the page and its data."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import bottle

from feedbus.errors import Outage
from feedbus.hosts.assignment_file import Sharing, read_assignment
from feedbus.logs import EventLog
from feedbus.metrics import CONTENT_TYPE, WaitingCounts, all_waiting, exposition
from feedbus.operations.access_control import Guard
from feedbus.operations.page_figures import figures
from feedbus.operations.queue_depths import Counts, QueueDepths
from feedbus.operations.responses import UNAVAILABLE, answer, problem, typed
from feedbus.operations.unwritable_folders import unwritable_folders
from feedbus.operations.wsgi_application import Application
from feedbus.printable import one_line
from feedbus.process.status_files import hold_reasons
from feedbus.schedules.overview import overview
from feedbus.store import Store
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import BrokerUrl

events = EventLog(__name__)

PAGE = Path(__file__).with_name("page.html")
# Matches a script or a style within the page; the groups are the tag and the content.
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
NOT_FOUND = (
    "There is nothing here; see / (the page), /operations.json (its data), /metrics, /healthz"
    " and /readyz."
)


class Operations:
    """The functions that answer the requests of each route; each returns the body of an answer.

    The operations process has one Operations object. bottle calls its methods in several threads.
    """

    def __init__(self, topology: Topology, store: Store, depths: QueueDepths) -> None:
        """Create the object.

        Args:
            topology: the topology of the system that the page shows.
            store: the store of the topology.
            depths: reads the queue depths; the caller closes it.

        """
        self._topology = topology
        self._store = store
        self._depths = depths

    def metrics(self) -> bytes:
        """Answer GET /metrics: return the metrics of all processes of this host.

        They are in Prometheus's text format. If the broker answers, they include the queue depths.
        """
        depths, _ = self._depths_or_error()
        ready, retrying, dead = {}, {}, {}
        for consumer, found in depths.items():
            queue = self._topology.consumers[consumer].queue.name
            ready[consumer], retrying[queue], dead[queue] = found.ready, found.retrying, found.dead
        holding = self._hold_reasons()
        delayed = self._timer()
        received = all_waiting(self._topology.var / "run")
        counts = {consumer: received.get(consumer, WaitingCounts()) for consumer in depths}
        gauges: dict[str, Mapping[str, float]] = {
            "feedbus_queue_messages": ready,
            "feedbus_retrying_messages": retrying,
            "feedbus_retrying_records": {name: each.retrying for name, each in counts.items()},
            "feedbus_waiting_records": {
                name: each.waiting + depths[name].waiting for name, each in counts.items()
            },
            "feedbus_delayed_messages": delayed,
            "feedbus_dead_letters": dead,
            "feedbus_holding_processes": {
                consumer: len(holding.get(consumer, ())) for consumer in self._topology.consumers
            },
            "feedbus_host_consumers": {one.host: len(one.works_on) for one in self._hosts().hosts},
        }
        return typed(CONTENT_TYPE, exposition(self._topology.var / "metrics", gauges))

    def health(self) -> bytes:
        """Answer GET /healthz: return {"status": "ok"}, because this process answers."""
        return answer({"status": "ok"})

    def ready(self) -> bytes:
        """Answer GET /readyz: check whether the broker, store, disk and consumers are ready.

        The consumers are ready if none of them holds.

        Returns:
            A JSON object with "ok" for each part.

        Raises:
            bottle.HTTPResponse: with status 503 and the parts that are not ready. The reasons are
                only in the log, because everybody may read this answer.

        """
        _, outage = self._depths_or_error()
        holding = self._hold_reasons()
        reasons = [f"{name} holds: {text}" for name, texts in holding.items() for text in texts]
        found = {
            "broker": (outage, "Does not answer."),
            "store": (store_outage(self._store), "Does not answer."),
            "disk": ("; ".join(unwritable_folders(self._topology)), "Cannot be written to."),
            "consumers": (
                "; ".join(reasons),
                f"{len(holding)} of {len(self._topology.consumers)} hold.",
            ),
        }
        if not outage:
            found["broker"] = (self._refusal(), "Accepts no messages.")
        for part, (error, _) in found.items():
            if error:
                events.warning(
                    "not_ready",
                    f"/readyz answers 503: {part} is not ready",
                    part=part,
                    error=one_line(error),
                )
        errors = {part: [public] for part, (error, public) in found.items() if error}
        if errors:
            detail = f"Not ready: {' and '.join(errors)}; operations.log has the reason."
            raise problem(UNAVAILABLE, detail, errors)
        return answer({"status": "ok", **dict.fromkeys(found, "ok")})

    def figures(self) -> bytes:
        """Answer GET /operations.json: return the data of the operations page as a JSON object."""
        depths, outage = self._depths_or_error()
        shown = figures(
            self._topology, depths, self._hold_reasons(), all_waiting(self._topology.var / "run")
        )
        shown["delayed"] = self._timer() or None
        shown["schedules"] = self._schedules()
        shown["hosts"] = [asdict(one) for one in self._hosts().hosts]
        shown["broker"] = broker_state(self._topology.broker_url, outage)
        shown["store"] = store_state(self._topology.store, store_outage(self._store))
        return answer(shown)

    def page(self) -> bytes:
        """Answer GET /: return the HTML of the operations page."""
        page, policy = page_and_policy()
        bottle.response.set_header("Content-Security-Policy", policy)
        return typed("text/html; charset=utf-8", page)

    def _hold_reasons(self) -> dict[str, list[str]]:
        """Return the consumers that hold, each with the reasons of its processes."""
        found = hold_reasons(self._topology.var / "run")
        return {name: found[name] for name in self._topology.consumers if name in found}

    def _hosts(self) -> Sharing:
        """Return the hosts and their shards; if these are not known, an object without hosts."""
        return read_assignment(self._topology) or Sharing("")

    def _timer(self) -> dict[str, float]:
        """Return the numbers of delayed messages: {"waiting": …, "undelivered": …}.

        The result is empty during an outage of the broker.
        """
        try:
            return dict(asdict(self._depths.delayed_counts()))
        except Outage:
            return {}

    def _schedules(self) -> list[dict[str, Any]]:
        """Return the last and the next firing of each schedule."""
        if not self._topology.schedules:
            return []
        try:
            found = overview(self._topology, self._depths.last_firings())
        except Outage:
            found = overview(self._topology, None)
        return [{"name": name, **asdict(one)} for name, one in found.items()]

    def _refusal(self) -> str:
        """Return why the broker accepts no messages, or does not answer; "" if it accepts them."""
        try:
            return self._depths.refusal()
        except Outage as error:
            return str(error)

    def _depths_or_error(self) -> tuple[Counts, str]:
        """Return the queue depths and ""; during an outage of the broker, {} and the error."""
        try:
            return self._depths.read(), ""
        except Outage as error:
            return {}, str(error)


def application(topology: Topology, store: Store, depths: QueueDepths, guard: Guard) -> Application:
    """Return the WSGI application of the operations process, with all its routes.

    Args:
        topology: the topology of the system.
        store: the store of the topology; /readyz checks whether it answers.
        depths: the numbers of messages in the queues.
        guard: checks requests for routes that are not public.

    """
    operations = Operations(topology, store, depths)
    # The path of each route, its function, and which access it needs; see Guard and Application.
    routes: list[tuple[str, Callable[[], bytes], Mapping[str, bool]]] = [
        ("/metrics", operations.metrics, {"metrics": True}),
        ("/operations.json", operations.figures, {}),
        ("/healthz", operations.health, {"public": True}),
        ("/readyz", operations.ready, {"public": True}),
        ("/", operations.page, {"public": True}),
    ]
    app = Application(guard, not_found=NOT_FOUND)
    for rule, function, access in routes:
        app.route(rule, "GET", function, **access)
    return app


def store_outage(store: Store) -> str:
    """Ask the store whether it answers; return why it does not, or "" if it does."""
    try:
        store.ready()
    except Exception as error:
        if not (isinstance(error, Outage) or store.is_outage(error)):
            raise
        return str(error)
    return ""


def broker_state(url: BrokerUrl, outage: str) -> dict[str, Any]:
    """Return the kind of a broker and whether it answers, without its address, as JSON values.

    Args:
        url: the URL of the broker.
        outage: why the broker does not answer, or "" if it does.

    """
    return {"kind": "SQLite" if url.embedded else "RabbitMQ", "reachable": not outage}


def store_state(store: StoreOptions | None, outage: str) -> dict[str, Any] | None:
    """Return the kind of a store and whether it answers, as JSON values; None without a store.

    Args:
        store: the options of the store; None if the topology has none.
        outage: why the store does not answer, or "" if it does.

    """
    if store is None:
        return None
    if store.url is None:
        return {"kind": store.adapter, "reachable": not outage}
    return {"kind": "SQLite" if store.url.embedded else "PostgreSQL", "reachable": not outage}


@cache
def page_and_policy() -> tuple[bytes, str]:
    """Return the HTML of the operations page, and its header Content-Security-Policy.

    The policy allows only the script and the style of the page.
    """
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
