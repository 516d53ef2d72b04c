"""One module for each kind of run; each checks every stored row and returns its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bench.runs import database, feeds, latency, peers, standing, web
from bench.stage import EMBEDDED, SERVERS, Stage

RUNS: Mapping[str, Callable[[Stage], dict[str, float]]] = {
    "database": database.wide,
    "wide": partial(feeds.wide, kind=SERVERS),
    "wide-embedded": partial(feeds.wide, kind=EMBEDDED),
    "everyday": partial(feeds.everyday, kind=SERVERS),
    "everyday-embedded": partial(feeds.everyday, kind=EMBEDDED),
    "million": feeds.million,
    **{
        f"wide-{peer}": partial(peers.wide, peer=peer)
        for peer in peers.PEERS
        if peers.installed(peer)
    },
    "everyday-port": partial(peers.everyday, peer="port"),
    "latency": latency.latency,
    "reading": web.reading,
    "serving": web.serving,
    "idle": partial(standing.idle, kind=SERVERS),
    "idle-embedded": partial(standing.idle, kind=EMBEDDED),
    "check": standing.check,
}
