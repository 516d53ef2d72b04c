"""Tweets through other designs and frameworks, on the same servers, with the same checks."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench import checking, graphs
from bench.comparators import PORT_CONSUMERS
from bench.stage import SERVERS, Place, Stage
from store import moments, queries
from store.queries.sql import run

NOTHING = subprocess.DEVNULL
START_SECONDS, STOP_SECONDS = 60.0, 20.0
CREATE = "CREATE TABLE json_feed (reader_id bigint PRIMARY KEY, tweets text NOT NULL)"

CELERY, DRAMATIQ, FASTSTREAM = (
    f"bench.comparators.{name}" for name in ("celery_app", "dramatiq_app", "faststream_app")
)
CELERY_QUEUES = "publish_tweet,update_feed,send_email,send_sms"

# For each peer: the command of its consumers, and how many consumers the broker then has.
PEERS: dict[str, tuple[list[list[str]], int]] = {
    "port": (
        [["bench.comparators.port", consumer] for consumer in PORT_CONSUMERS],
        len(PORT_CONSUMERS),
    ),
    "celery_app": (
        [["celery", "-A", CELERY, "worker", "-c", "4", "-l", "WARNING", "-Q", CELERY_QUEUES]],
        4,
    ),
    "dramatiq_app": ([["dramatiq", DRAMATIQ, "--processes", "2", "--threads", "4"]], 8),
    "faststream_app": ([["faststream", "run", f"{FASTSTREAM}:app", "--workers", "2"]], 8),
}
# These are measured only if they are installed: the extra `bench`.
PACKAGES = {"celery_app": "celery", "dramatiq_app": "dramatiq", "faststream_app": "faststream"}


def installed(peer: str) -> bool:
    """Whether everything that a peer needs is installed."""
    return peer not in PACKAGES or importlib.util.find_spec(PACKAGES[peer]) is not None


def wide(stage: Stage, peer: str) -> dict[str, float]:
    """Deliver tweets of an author whom 10,000 follow."""
    return deliver(stage, peer, "wide", stage.scale.wide_tweets_by_message)


def everyday(stage: Stage, peer: str) -> dict[str, float]:
    """Deliver tweets of many authors, most of them of few followers."""
    return deliver(stage, peer, "everyday", stage.scale.everyday_tweets_by_message)


def deliver(stage: Stage, peer: str, graph: str, count: int) -> dict[str, float]:
    """Run a peer's consumers, publish tweets, and wait until the last notification is stored."""
    with _working(stage, peer, graph) as place, ExitStack() as stack:
        tweets = graphs.tweets(graph, count)
        wanted, before = checking.expect(tweets), checking.notifications()
        # The receiver of a post stores the tweet before it publishes it; so these ids are used,
        # too.
        queries.ensure_tweets(
            {"id": t.id, "author_id": t.author_id, "text": t.text, "created_at": moments.EPOCH}
            for t in tweets
        )
        publisher = _publisher(stack, place, peer)
        started = time.monotonic()
        publisher.communicate(json.dumps([tweet.payload() for tweet in tweets]).encode())
        assert publisher.returncode == 0, f"{peer} could not publish"
        seconds = checking.await_rows(lambda: checking.notifications() - before, wanted, started)
        checking.check(checking.JSON_FEED)
    return {"updates": wanted, "seconds": seconds, "rate": wanted / seconds}


@contextmanager
def _working(stage: Stage, peer: str, graph: str) -> Iterator[Place]:
    """Run a peer's consumers on a new place, or on the shared place of the peer."""
    if not stage.scale.shared:
        with _consuming(stage, peer, graph) as place:
            yield place
        return
    if peer not in stage.systems:
        stage.systems[peer] = stage.kept.enter_context(_consuming(stage, peer, graph))
    stage.reopen(stage.systems[peer])
    yield stage.systems[peer]


@contextmanager
def _consuming(stage: Stage, peer: str, graph: str) -> Iterator[Place]:
    commands, consumers = PEERS[peer]
    with stage.place(SERVERS, graph) as place, ExitStack() as stack:
        run(CREATE)
        _publisher(stack, place, peer).communicate(b"[]")  # it declares the queues
        children = [_started(stack, place, words) for words in commands]
        deadline = time.monotonic() + START_SECONDS
        while stage.consumers(place) < consumers:
            dead = any(child.poll() is not None for child in children)
            if dead or time.monotonic() > deadline:
                raise AssertionError(_log(place).read_text(errors="replace")[-3000:])
            time.sleep(0.1)
        yield place


def _publisher(stack: ExitStack, place: Place, peer: str) -> subprocess.Popen[bytes]:
    """Start the process that publishes received tweets; return when it is ready."""
    words = [f"bench.comparators.{peer}", "publish"]
    publisher = _started(stack, place, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert publisher.stdout is not None
    assert publisher.stdout.readline() == b"ready\n", _log(place).read_text(errors="replace")
    return publisher


def _started(
    stack: ExitStack,
    place: Place,
    words: Sequence[str],
    *,
    stdin: int = NOTHING,
    stdout: int = NOTHING,
) -> subprocess.Popen[bytes]:
    with _log(place).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=place.topology.root,
            env=place.environment,
            stdin=stdin,
            stdout=stdout,
            stderr=log,
            start_new_session=True,
        )
    stack.callback(_stop, child)
    return child


def _log(place: Place) -> Path:
    return place.topology.var.parent / "peer.log"


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
