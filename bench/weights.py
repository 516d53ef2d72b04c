"""Print the effects of weights: how even the shards are, and the cost on a real RabbitMQ."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import amqp

from feedbus import broker, config
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.ring import frontier, key_class, placer
from feedbus.ring.placement import Ring
from servers.rabbitmq import PASSWORD, USER, RabbitMQ

SHARDS = 10
SETS = 100
RECORDS = 20_000
ROUNDS = 5
SETTLE_SECONDS = 0.3
BUCKETS = (10, 200, 1_000, 10_000)
TOPOLOGY = """
name = "of{buckets}p{pack}"
broker.url = "{url}"
exchanges.feed = {{ type = "x-consistent-hash", pack = {pack} }}
queues.shard = {{ exchange = "feed", shards = 10, weight = {weight}, handler = "none:none" }}
"""

Publish = Callable[[Sequence[str]], object]


def evenness(weights: Sequence[int], loads: Counter[int]) -> float:
    """Return max/mean of the numbers of messages of a ring's shards."""
    place = placer(Ring.of((str(shard), weight) for shard, weight in enumerate(weights)))
    found: Counter[str] = Counter()
    for each, load in loads.items():
        found[place(each)] += load
    return max(found.values()) * len(weights) / loads.total()


def report_evenness() -> None:
    """Compare equal with balanced weights, on the keys of the balancing and on other keys."""
    stream = random.Random(5)  # noqa: S311 -- the same keys each time
    heads = ("weights of 1", "of 20", "of 100", "balanced", "buckets", "on other keys")
    print(f"max/mean over {SHARDS} shards, the median of {SETS} sets of random keys")
    print(f"{'keys':>8}", *(f"{head:>14}" for head in heads))
    for keys in (1_000, 10_000, 100_000):
        rows = []
        for _ in range(SETS if keys < 100_000 else SETS // 10):
            loads, others = (
                Counter(key_class(f"{stream.getrandbits(64):x}") for _ in range(keys))
                for _ in range(2)
            )
            best = frontier(loads, SHARDS, 200)[-1]
            equal = [evenness([weight] * SHARDS, loads) for weight in (1, 20, 100)]
            there, elsewhere = (evenness(best.weights, each) for each in (loads, others))
            rows.append([*equal, there, best.buckets, elsewhere])
        middle = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{keys:>8,}", *(f"{value:>14,.3f}" for value in middle))


def report_cost() -> None:
    """Publish the same records to rings with more and more buckets on a private RabbitMQ.

    Bare messages are transient and unconfirmed, and their queues keep one message. So their cost is
    mostly the cost of placing them.
    """
    keys = [str(number) for number in range(RECORDS)]
    print(f"\nRabbitMQ, {RECORDS:,} records: the median of {ROUNDS} rounds")
    heads = ("buckets", "bare", "by feedbus, alone", "in packs of 1,000")
    print(f"{heads[0]:>8}", *(f"{head:>27}" for head in heads[1:]))
    found: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, RabbitMQ(Path(folder)) as node:
        for _ in range(ROUNDS):
            for buckets in BUCKETS:
                with bare(node, buckets) as publish:
                    found[buckets, heads[1]].append(clocked(node, publish, keys))
                for head, pack in zip(heads[2:], (0, 1_000), strict=True):
                    with confirmed(node, buckets, pack) as publish:
                        found[buckets, head].append(clocked(node, publish, keys))
    for buckets in BUCKETS:
        reported = []
        for head in heads[1:]:
            rate, busy = map(statistics.median, zip(*found[buckets, head], strict=True))
            reported.append(f"{rate:>9,.0f}/s, {busy:>4,.0f} µs each")
        print(f"{buckets:>8,}", *(f"{each:>27}" for each in reported))


def clocked(node: RabbitMQ, publish: Publish, keys: Sequence[str]) -> tuple[float, float]:
    """Return records/s, and the microseconds of the node's processor time for each."""
    publish(keys[:1_000])
    time.sleep(SETTLE_SECONDS)
    busy, started = spent_seconds(node), time.perf_counter()
    publish(keys)
    took = time.perf_counter() - started
    time.sleep(SETTLE_SECONDS)
    return len(keys) / took, (spent_seconds(node) - busy) / len(keys) * 1e6


def spent_seconds(node: RabbitMQ) -> float:
    """Return the processor time that a node has used; other processes do not change it."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = file.read_text().rpartition(")")[2].split()
            if int(after_name[3]) == node.session:
                ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def bare(node: RabbitMQ, buckets: int) -> Iterator[Publish]:
    """Yield a function that publishes bare messages to a ring, and returns when all are placed."""
    with amqp.Connection(f"127.0.0.1:{node.port}", userid=USER, password=PASSWORD) as connection:
        channel, ring = connection.channel(), f"bare{buckets}"
        channel.exchange_declare(ring, "x-consistent-hash", durable=True, auto_delete=False)
        for shard in range(SHARDS):
            queue = f"{ring}.{shard}"
            channel.queue_declare(
                queue, durable=True, auto_delete=False, arguments={"x-max-length": 1}
            )
            channel.queue_bind(queue, ring, str(buckets // SHARDS))

        def publish(keys: Sequence[str]) -> None:
            for key in keys:
                channel.basic_publish(amqp.Message(b""), ring, key)
            channel.queue_declare(f"{ring}.0", passive=True)  # answered after all earlier messages

        yield publish


@contextmanager
def confirmed(node: RabbitMQ, buckets: int, pack: int) -> Iterator[Publish]:
    """Yield a function that publishes to a ring as feedbus does; empty the queues afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "topology.toml"
        weight = buckets // SHARDS
        file.write_text(TOPOLOGY.format(url=node.url, buckets=buckets, pack=pack, weight=weight))
        topology = config.load(file)
        state = topology_setup.set_up(topology)["feed"]
        with LiveBus(topology) as bus:
            yield lambda keys: bus.publish_many("feed", (({}, key) for key in keys))
        with broker.connect(topology) as connection:
            channel = connection.channel()
            for shard in topology.consumers:
                channel.queue_purge(Names(topology).member(state.current, shard))


if __name__ == "__main__":
    report_evenness()
    report_cost()
