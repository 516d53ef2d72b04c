"""Tweets through other designs and frameworks, on the same servers, until the last row is stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from bench import checking, graphs
from bench.comparators import PORT_CONSUMERS
from bench.stage import SERVERS, Place, Stage
from store.queries.sql import run

START_SECONDS, STOP_SECONDS = 60.0, 20.0
CREATE = "CREATE TABLE json_feed (reader_id bigint PRIMARY KEY, tweets text NOT NULL)"

# For each peer what runs its consumers, and how many consumers the broker then knows.
PEERS: dict[str, tuple[list[list[str]], int]] = {
    "port": (
        [["bench.comparators.port", consumer] for consumer in PORT_CONSUMERS],
        len(PORT_CONSUMERS),
    ),
}


def wide(stage: Stage, peer: str) -> dict[str, float]:
    """Deliver tweets of an author whom 10,000 follow."""
    return deliver(stage, peer, "wide", stage.scale.wide_tweets_by_message)


def everyday(stage: Stage, peer: str) -> dict[str, float]:
    """Deliver tweets of many authors, most of them of few followers."""
    return deliver(stage, peer, "everyday", stage.scale.everyday_tweets_by_message)


def deliver(stage: Stage, peer: str, graph: str, count: int) -> dict[str, float]:
    """Run a peer's consumers, publish tweets, and wait until the last notification is stored."""
    with stage.place(SERVERS, graph) as place:
        run(CREATE)
        tweets = graphs.tweets(graph, count)
        wanted = checking.expect(tweets)
        with _working(stage, place, peer) as publisher:
            started = time.monotonic()
            publisher.communicate(json.dumps([tweet.payload() for tweet in tweets]).encode())
            assert publisher.returncode == 0, f"{peer} could not publish"
            seconds = checking.await_rows(checking.notifications, wanted, started)
        checking.check(checking.JSON_FEED)
    return {"updates": wanted, "seconds": seconds, "rate": wanted / seconds}


@contextmanager
def _working(stage: Stage, place: Place, peer: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a peer's publisher and consumers; when all are ready, yield the publisher."""
    commands, consumers = PEERS[peer]
    module = f"bench.comparators.{peer}"
    log = place.topology.var.parent / "peer.log"
    with ExitStack() as stack, log.open("wb") as output:

        def start(words: Sequence[str], **pipes: int) -> subprocess.Popen[bytes]:
            child = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=place.topology.root,
                env=place.environment,
                stderr=output,
                start_new_session=True,
                **{"stdin": subprocess.DEVNULL, "stdout": output, **pipes},  # type: ignore[call-overload]
            )
            stack.callback(_stop, child)
            return child

        publisher = start([module, "publish"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == b"ready\n", log.read_text()
        children = [start(words) for words in commands]
        deadline = time.monotonic() + START_SECONDS
        while stage.consumers(place) < consumers:
            dead = any(child.poll() is not None for child in children)
            assert not dead and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield publisher


def _stop(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(STOP_SECONDS)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
